from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from hft_core.backbone import Features
from hft_core.errors import PluginError
from hft_core.head import Draw
from hft_core.runs import assembly
from hft_plugins.backbones import decoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, Seq2SeqOptions
from hft_plugins.backbones.seq2seq import HfSeq2Seq
from hft_plugins.heads import clm, mlm
from hft_plugins.heads.parts.end_tokens import CUT
from hft_plugins.heads.seq2seq import Options, Seq2Seq, build

MODELS = ["t5", "t5-untied", "bart"]


def opened(path: Path) -> HfSeq2Seq:
    backbone = seq2seq.build(Seq2SeqOptions(model=str(path)))
    backbone.trunk.eval()
    return backbone


def head_on(backbone: Any, **options: Any) -> Seq2Seq:
    head = build(Options(**options), task="t")
    head.attach(backbone)
    return head.eval()


def texts(toys: Any, count: int = 4) -> dict[str, list[str]]:
    rows = toys.rows(count)
    return {"source": [row["text"] for row in rows], "target": [row["other"] for row in rows]}


def padded(sequences: list[list[int]], filler: int) -> torch.Tensor:
    tensors = [torch.tensor(sequence) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=filler)


def batch_of(encoded: Any, backbone: Any) -> dict[str, torch.Tensor]:
    """As the batching of the core pads it."""
    ids = padded(encoded.sequences, backbone.tokenizer.pad_token_id)
    mask = padded([[1] * len(sequence) for sequence in encoded.sequences], 0)
    return {"input_ids": ids, "attention_mask": mask, **{n: padded(v, 0) for n, v in encoded.extra.items()}}


@pytest.mark.parametrize("name", MODELS)
def test_equals_automodel_for_seq2seq_lm(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models[name])
    head = head_on(backbone)
    rows = texts(toys)
    encoded = head.encode(rows, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(4), Draw(0, 0))
    assert sequences == encoded.sequences
    inputs = batch_of(encoded, backbone)
    plain = AutoModelForSeq2SeqLM.from_pretrained(models[name], dtype=torch.float32).eval()
    tokens = backbone.tokenizer(rows["source"], text_target=rows["target"])
    assert tokens["input_ids"] == encoded.sequences
    labels = padded(tokens["labels"], -100)
    with torch.no_grad():
        hidden = backbone.forward(inputs)
        wanted = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels)
        assert backbone.language_model is not None
        logits = backbone.language_model(hidden[labels != -100])
        torch.testing.assert_close(logits, wanted.logits[labels != -100], atol=1e-5, rtol=0)
        loss = head.loss(Features(hidden, inputs["input_ids"], inputs["attention_mask"]), targets) / targets.count
        torch.testing.assert_close(loss, wanted.loss, atol=1e-5, rtol=0)
    assert targets.count == int((labels != -100).sum())


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_task_opens_in_the_plain_class_with_equal_logits(
    name: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models[name])
    head = head_on(backbone)
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    assert head.family is not None
    backbone.save(tmp_path / "trunk", dict(backbone.trunk.state_dict()))
    backbone.save_task(tmp_path / "task", tmp_path / "trunk", head.family, head.family.plain_state(), {})
    assert (tmp_path / "task" / "generation_config.json").exists()
    plain, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "task", output_loading_info=True)
    assert {kind: keys for kind, keys in info.items() if keys} == {}
    inputs = batch_of(head.encode(texts(toys), backbone.tokenizer, 64), backbone)
    again = opened(tmp_path / "trunk")
    with torch.no_grad():
        hidden = backbone.forward(inputs)
        assert backbone.language_model is not None
        logits = torch.stack([backbone.language_model(row) for row in hidden])
        torch.testing.assert_close(plain.eval()(**inputs).logits, logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(again.forward(inputs), hidden, atol=1e-6, rtol=0)
    state = backbone.load_task(tmp_path / "task")
    assert state.keys() == head.family.plain_state().keys()
    head.family.load_plain_state(state)
    headless = AutoModel.from_pretrained(tmp_path / "trunk").eval()
    with torch.no_grad():
        torch.testing.assert_close(headless(**inputs).last_hidden_state, hidden, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForQuestionAnswering])
def test_equals_the_plain_class_for_heads_that_give_no_targets(
    auto: Any, name: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models[name])
    config = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    module = backbone.sequence_module(auto.__name__, **config)
    assert module is not None
    module.eval()
    backbone.save(tmp_path / "trunk", dict(backbone.trunk.state_dict()))
    backbone.save_task(tmp_path / "task", tmp_path / "trunk", module, module.plain_state(), config)
    plain, info = auto.from_pretrained(tmp_path / "task", output_loading_info=True)
    assert {kind: keys for kind, keys in info.items() if keys} == {}
    inputs = dict(backbone.tokenizer(texts(toys)["source"], padding=True, return_tensors="pt"))
    with torch.no_grad():
        said = plain.eval()(**inputs)
        ours = module(Features(backbone.forward(inputs), inputs["input_ids"], inputs["attention_mask"]))
    wanted = said.logits if "logits" in said else torch.stack([said.start_logits, said.end_logits], dim=-1)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    prefix = backbone.prefix_in(auto.__name__)
    assert {f"{prefix}{weight}" for weight in backbone.trunk.state_dict()} <= plain.state_dict().keys()


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_do_not_depend_on_how_rows_are_padded(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models[name])
    head = head_on(backbone)
    rows = texts(toys, 6)
    together = backbone.forward(batch_of(head.encode(rows, backbone.tokenizer, 64), backbone))
    for i in range(6):
        alone = head.encode({column: [values[i]] for column, values in rows.items()}, backbone.tokenizer, 64)
        hidden = backbone.forward(batch_of(alone, backbone))[0]
        torch.testing.assert_close(together[i, : len(hidden)], hidden, atol=1e-5, rtol=0)


def test_layers_are_the_encoders_and_then_the_decoders(models: Any) -> None:
    for name, holder in (("t5", "block"), ("bart", "layers")):
        backbone = opened(models[name])
        names = {id(module): name for name, module in backbone.trunk.named_modules()}
        found = [names[id(layer)] for layer in backbone.layers]
        assert found[:2] == [f"encoder.{holder}.0", f"encoder.{holder}.1"]
        assert found[2:4] == [f"decoder.{holder}.0", f"decoder.{holder}.1"]
        assert len(found) == (4 if name == "t5" else 5)


def test_a_class_that_has_the_encoder_alone_is_not_taken(models: Any) -> None:
    assert opened(models["t5"]).sequence_module("AutoModelForTokenClassification", num_labels=3) is None


def test_source_and_target_lose_their_ends_where_they_are_too_long(models: Any) -> None:
    backbone = opened(models["t5"])
    head = head_on(backbone, max_target_length=6, source_prefix="again ")
    encoded = head.encode({"source": ["the cat " * 40], "target": ["the dog " * 40]}, backbone.tokenizer, 20)
    assert (len(encoded.sequences[0]), len(encoded.targets["labels"][0])) == (20, 6)
    assert encoded.sequences[0][-1] == backbone.tokenizer.eos_token_id
    assert backbone.tokenizer.decode(encoded.sequences[0]).startswith("again the cat")


@pytest.mark.parametrize("name", MODELS)
def test_a_target_ends_once_and_a_cut_one_without_its_end_as_a_decoders(name: str, models: Any) -> None:
    backbone = opened(models[name])
    tokenizer = backbone.tokenizer
    whole = tokenizer(text_target="the cat saw the dog")["input_ids"]
    assert whole[-1] == tokenizer.eos_token_id
    for limit in range(2, len(whole) + 3):
        head = head_on(backbone, max_target_length=limit)
        for target in ("the cat saw the dog", "the cat saw the dog</s>"):
            encoded = head.encode({"source": ["the cat"], "target": [target]}, tokenizer, 64)
            assert encoded.targets["labels"] == [whole[:limit]]
            assert len(encoded.extra["decoder_input_ids"][0]) == min(limit, len(whole))
            assert encoded.notes == ({0: CUT} if limit < len(whole) else {})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    encoded = head_on(backbone).encode({"source": ["the cat"], "target": ["the dog"]}, tokenizer, 64)
    assert "does not learn to stop" in encoded.notes[0]


def test_rows_to_predict_on_need_no_target(models: Any) -> None:
    backbone = opened(models["t5"])
    head = head_on(backbone, max_new_tokens=5)
    encoded = head.encode({"source": ["the cat saw the dog"]}, backbone.tokenizer, 64)
    assert head.encode({"source": ["the cat saw the dog"], "target": [None]}, backbone.tokenizer, 64) == encoded
    assert (encoded.extra, encoded.targets) == ({}, {})
    _, targets = head.collate(encoded.sequences, {}, [0], Draw(0, 0))
    inputs = batch_of(encoded, backbone)
    said = head.predict(Features(backbone.forward(inputs), inputs["input_ids"], inputs["attention_mask"]), targets)
    assert targets.count == 0
    assert head.answer(said, {"source": "the cat saw the dog"}) == {"text": said[0]}


def test_what_does_not_go_with_an_encoder_decoder_is_refused(models: Any) -> None:
    backbone = opened(models["t5"])
    llama = decoder.build(DecoderOptions(model=str(models["llama"])))
    for on, head, reason in (
        (llama, build(Options(), task="t"), "no encoder-decoder"),
        (backbone, build(Options(max_target_length=400), task="t"), "at most 64"),
        (backbone, clm.build(clm.Options(), task="t"), "sees the tokens to come"),
        (backbone, mlm.build(mlm.Options(), task="t"), "autoregressive"),
    ):
        with pytest.raises(PluginError, match=rf"^task 't': .*{reason}[^\n]*$"):
            assembly.attach(on, {"t": head})
