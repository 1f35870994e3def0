"""A frozen trunk in four or eight bits: adapters on it train, resume and open again, and no file holds its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hft_core
from hft_core import Catalogue
from hft_core.errors import UsageError
from hft_core.predict import predict
from hft_core.runtime import signals
from hft_core.runtime.signals import Interrupted
from hft_plugins.backbones.quantized_linear import QuantizedLinear

STRATEGIES: dict[str, Any] = {
    "lora": {"type": "lora", "r": 4, "lora_dropout": 0.1},
    "dora": {"type": "dora", "r": 4},
    "task-lora": {"type": "task-lora", "r": 4},
    "shared-task-lora": {"type": "shared-task-lora", "r": 4},
}
SAVED = {"save_strategy": "steps", "save_steps": 1}
CASES = [(kind, strategy) for kind in ("nf4", "int8") for strategy in STRATEGIES]


@pytest.fixture(autouse=True)
def bitsandbytes_where_it_is_needed(request: pytest.FixtureRequest) -> None:
    if "nf4" in request.node.name:
        pytest.importorskip("bitsandbytes")


def recipe(model: Any, kind: str, strategy: Any) -> dict[str, Any]:
    tasks = {"words": {"head": "clm"}, "kind": {"head": "classification"}}
    stage = {"strategy": strategy, "max_steps": 4, "learning_rate": 0.01, "train_batch_size": 6}
    backbone = {"model": str(model), "quantization": kind}
    return {"backbone": backbone, "tasks": tasks, "stages": [stage], "precision": "fp32", "output": SAVED}


def data_of(given: dict[str, Any], toys: ModuleType) -> dict[str, Any]:
    return {task: {"train": toys.rows(24, seed=0), "dev": toys.rows(8, seed=1)} for task in given["tasks"]}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_with_its_rounded_weight(kind: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(128, 192)
    layer, x = QuantizedLinear(plain, kind), torch.randn(2, 5, 128)
    rounded = layer.weight
    assert isinstance(layer, nn.Linear)
    assert (
        0 < float((rounded - plain.weight).abs().max()) < (0.3 if kind == "nf4" else 0.01) * float(rounded.abs().max())
    )
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        outputs = layer(found), nn.functional.linear(expected, rounded, plain.bias)
    for output in outputs:
        output.float().square().sum().backward()
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype is torch.bfloat16 else {}
    torch.testing.assert_close(*(output.float() for output in outputs), **tolerance)
    torch.testing.assert_close(found.grad, expected.grad, **({"rtol": 0.05, "atol": 0.1} if tolerance else {}))
    held = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    scales = 16 * 4 * 256 if kind == "nf4" else 0  # one table of 256 levels a layer
    assert held <= layer.numbers * (0.52 if kind == "nf4" else 1.04) + scales
    assert sum(parameter.numel() for parameter in layer.parameters()) == 192


@pytest.mark.parametrize(("kind", "strategy"), CASES)
def test_a_run_resumes_bit_for_bit_and_its_files_hold_no_base_weights(
    kind: str, strategy: str, models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]
) -> None:
    given = recipe(models["llama"], kind, STRATEGIES[strategy])
    data = data_of(given, toys)
    whole = hft_core.run(given, output=tmp_path / "whole", data=data)
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.run(given, output=tmp_path / "stopped", data=data, observers=[stop_after(2)])
    saved = [p for p in (tmp_path / "stopped").rglob("*.safetensors") if p.stat().st_size]
    assert saved
    names = {name for path in saved for name in load_file(path)}
    assert not [name for name in names if name.endswith(("codes", "scales", "q_proj.weight", "embed_tokens.weight"))]
    resumed = hft_core.run(given, output=tmp_path / "stopped", data=data, resume=True)
    assert resumed.final == whole.final
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "model").rglob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file
    assert not (tmp_path / "whole" / "model" / "trunk").exists()
    opened = hft_core.open_run(tmp_path / "whole", Catalogue.discover(), merge=True)  # as `hft predict` does
    assert opened.model.backbone.quantization == kind
    rows = data["kind"]["dev"]
    answers = predict(opened, "kind", rows)
    right = sum(str(answer["label"]) == str(row["label"]) for answer, row in zip(answers, rows, strict=True))
    assert right / len(rows) == pytest.approx(resumed.final["dev"]["kind"]["accuracy"])


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (["full"], r"the backbone's weights are quantized \(int8\), and the strategy saves the trunk's own weights"),
        ([{"type": "partial", "layers": 1}], "expected one that saves an adapter"),
        (["lora", "dora"], "an adapter would be merged into weights that are quantized"),
        ([{"type": "pissa", "r": 2}], "quantized"),
    ],
)
def test_what_would_change_the_trunks_own_weights_is_refused_at_the_start(
    stages: list[Any], says: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    given = recipe(models["llama"], "int8", stages[0])
    given["stages"] = [{**given["stages"][0], "strategy": strategy} for strategy in stages]
    with pytest.raises(UsageError, match=says) as caught:
        hft_core.run(given, output=tmp_path / "run", data=data_of(given, toys))
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors" or path.name == "results.json"]


def test_a_trunk_without_linear_layers_is_refused(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    given = recipe(models["gpt2"], "int8", "lora")
    with pytest.raises(
        UsageError, match=r"has no linear layers \(torch.nn.Linear\) that 'quantization: int8' could store"
    ):
        hft_core.run(given, output=tmp_path / "run", data=data_of(given, toys))
