"""Models that bring their own code, and checkpoints with settings of quantization."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModel

from hft_core.errors import ModelError
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.backbones.trunk import HfBackbone

OLD = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.10"),
    reason="older versions build models with code of their own on the meta device, and ask for triton for fp8",
)
CONFIGURATION = """
from transformers import BertConfig

class MyConfig(BertConfig):
    model_type = "my_bert"
"""
MODELING = """
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel
from .configuration_my import MyConfig

class MyModel(BertModel):
    config_class = MyConfig

class MyForMaskedLM(BertForMaskedLM):
    config_class = MyConfig

class MyForSequenceClassification(BertForSequenceClassification):
    config_class = MyConfig
"""
AUTO_MAP = {
    "AutoConfig": "configuration_my.MyConfig",
    "AutoModel": "modeling_my.MyModel",
    "AutoModelForMaskedLM": "modeling_my.MyForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_my.MyForSequenceClassification",
}


@pytest.fixture
def own_code(family: Callable[..., Path], changed: Callable[..., None]) -> Path:
    """A BERT under a type of its own, whose classes are files in its folder."""
    folder = family("bert")
    (folder / "configuration_my.py").write_text(CONFIGURATION)
    (folder / "modeling_my.py").write_text(MODELING)
    changed(folder / "config.json", model_type="my_bert", auto_map=AUTO_MAP, architectures=["MyForMaskedLM"])
    return folder


def opened(folder: Path, *, trusted: bool = True) -> HfBackbone:
    return encoder.build(EncoderOptions(model=str(folder)), trust_remote_code=trusted)


@OLD
def test_a_model_with_a_type_of_its_own_opens_with_its_code_and_is_saved_with_it(
    own_code: Path, tmp_path: Path
) -> None:
    backbone = opened(own_code)
    assert type(backbone.trunk).__name__ == "BertModel"
    module: Any = backbone.sequence_module("AutoModelForSequenceClassification", num_labels=3)
    assert type(module.whole).__name__ == "MyForSequenceClassification"
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    for file in ("configuration_my.py", "modeling_my.py"):
        (own_code / file).unlink()
        assert (tmp_path / "trunk" / file).is_file()
    again = opened(tmp_path / "trunk")
    for name, tensor in backbone.trunk.state_dict().items():
        assert torch.equal(tensor, again.trunk.state_dict()[name])
    plain = AutoModel.from_pretrained(tmp_path / "trunk", trust_remote_code=True)
    assert type(plain).__name__ == "MyModel"


def test_code_of_its_own_is_refused_without_the_flag(own_code: Path) -> None:
    with pytest.raises(ModelError, match="--trust-remote-code"):
        opened(own_code, trusted=False)


@OLD
def test_settings_of_quantization_are_dropped_with_float32_weights(
    family: Callable[..., Path], changed: Callable[..., None], tmp_path: Path
) -> None:
    folder = family("bert")
    changed(folder / "config.json", quantization_config={"quant_method": "fp8"})
    backbone = opened(folder, trusted=False)
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    assert "quantization_config" not in json.loads((tmp_path / "trunk" / "config.json").read_text())


def test_a_method_of_quantization_that_is_not_known_is_refused(
    family: Callable[..., Path], changed: Callable[..., None]
) -> None:
    folder = family("bert")
    changed(folder / "config.json", quantization_config={"quant_method": "gptqq"})
    with pytest.raises(ModelError, match=r"quantization method 'gptqq'.*Did you mean 'gptq'"):
        opened(folder, trusted=False)
