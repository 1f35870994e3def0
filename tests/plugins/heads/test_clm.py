from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM

from hft_core.backbone import Features
from hft_core.errors import PluginError
from hft_core.head import Draw
from hft_core.runs import assembly
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.clm import Options, build


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_equals_the_loss_of_the_plain_class(name: str, models: Any, toys: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models[name])))
    backbone.trunk.eval()
    head = build(Options(), task="t")
    head.attach(backbone)
    head.eval()
    encoded = head.encode({"text": [row["text"] for row in toys.rows(6)]}, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, {}, range(6), Draw(0, 0))
    assert targets.count == sum(len(sequence) - 1 for sequence in sequences)
    inputs = backbone.tokenizer.pad({"input_ids": sequences}, return_tensors="pt", padding_side="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    plain = AutoModelForCausalLM.from_pretrained(models[name], dtype=torch.float32).eval()
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad():
        loss = head.loss(features, targets) / targets.count
        torch.testing.assert_close(loss, plain(**inputs, labels=labels).loss, atol=1e-5, rtol=0)


def test_a_text_ends_with_the_end_of_text_token_which_is_predicted(models: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models["gpt2"])))
    head = build(Options(), task="t")
    head.attach(backbone)
    end = backbone.tokenizer.eos_token_id
    encoded = head.encode({"text": ["the cat saw the dog"]}, backbone.tokenizer, 64)
    assert encoded.sequences[0][-1] == end
    _, targets = head.collate(encoded.sequences, {}, [0], Draw(0, 0))
    assert targets.tensors["label"].tolist() == encoded.sequences[0][1:]


def test_a_long_text_becomes_several_examples_and_nothing_is_lost(models: Any, toys: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models["llama"])))
    head = build(Options(), task="t")
    text = " ".join(row["text"] for row in toys.rows(20))
    encoded = head.encode({"text": [text, "the cat"]}, backbone.tokenizer, 16)
    assert max(map(len, encoded.sequences)) == 16
    tokens = [
        token for sequence, row in zip(encoded.sequences, encoded.rows, strict=True) if row == 0 for token in sequence
    ]
    assert tokens == [*backbone.tokenizer(text)["input_ids"], backbone.tokenizer.eos_token_id]


def test_causal_language_modelling_needs_an_autoregressive_backbone(models: Any) -> None:
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    with pytest.raises(PluginError, match=r"^task 'words': .*bidirectional[^\n]*$"):
        assembly.attach(backbone, {"words": build(Options(), task="words")})


ADDS = {"nothing": "$A", "begin": "<s> $A", "end": "$A </s>", "both": "<s> $A </s>"}
TEXT = "the cat saw the dog near the old river again " * 3


@pytest.mark.parametrize("adds", ADDS)
def test_chunks_have_begin_and_end_where_the_text_does_and_once(adds: str, models: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models["llama"])))
    tokenizer = backbone.tokenizer
    bare = tokenizer(TEXT)["input_ids"]
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=ADDS[adds], pair=f"{ADDS[adds]} $B", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    before = [begin] if "<s>" in ADDS[adds] else []
    head = build(Options(), task="t")
    for text in (TEXT, f"{TEXT}</s>", *([f"<s>{TEXT}"] if before else [])):
        for length in range(8, 64):
            chunks = head.encode({"text": [text]}, tokenizer, length).sequences
            assert max(map(len, chunks)) <= length
            assert all(chunk[: len(before)] == before for chunk in chunks)
            assert [token for chunk in chunks for token in chunk[len(before) :]] == [*bare, end]
            _, targets = head.collate(chunks, {}, range(len(chunks)), Draw(0, 0))
            assert targets.tensors["label"].tolist().count(end) == 1


def test_texts_without_an_end_of_text_token_are_reported(models: Any) -> None:
    backbone = decoder.build(DecoderOptions(model=str(models["llama"])))
    backbone.tokenizer.eos_token = None
    encoded = build(Options(), task="t").encode({"text": ["the cat"]}, backbone.tokenizer, 16)
    assert "no end-of-text token" in encoded.notes[0]
