from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForMaskedLM

from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.errors import PluginError
from hft_core.head import Draw
from hft_core.runs import assembly
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.mlm import MaskedLanguageModelling, Options, build
from hft_plugins.heads.parts import vocabulary_loss


@pytest.fixture
def backbone(models: Any) -> Any:
    made = encoder.build(EncoderOptions(model=str(models["bert"])))
    made.trunk.eval()
    return made


def head_on(backbone: Any, **options: Any) -> MaskedLanguageModelling:
    head = build(Options(**options), task="t")
    head.attach(backbone)
    return head.eval()


def sequences_of(head: MaskedLanguageModelling, backbone: Any, toys: Any, count: int = 40) -> tuple[Any, Any]:
    encoded = head.encode({"text": [row["text"] for row in toys.rows(count)]}, backbone.tokenizer, 64)
    return encoded.sequences, encoded.targets


def drawn(head: MaskedLanguageModelling, sequences: Any, targets: Any, epoch: int = 0, seed: int = 0) -> Any:
    masked, found = head.collate(sequences, targets, range(len(sequences)), Draw(seed, epoch))
    table = np.stack([found.tensors[name].numpy() for name in ("sequence", "position", "label")], axis=1)
    return masked, table


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_masks_depend_on_seed_epoch_and_example_and_on_nothing_else(masking: str, backbone: Any, toys: Any) -> None:
    head = head_on(backbone, masking=masking)
    sequences, targets = sequences_of(head, backbone, toys)
    masked, table = drawn(head, sequences, targets)
    again, other_table = drawn(head_on(backbone, masking=masking), sequences, targets)
    assert masked == again
    assert np.array_equal(table, other_table)
    some = [7, 3]
    theirs = {name: [values[i] for i in some] for name, values in targets.items()}
    alone, _ = head.collate([sequences[i] for i in some], theirs, some, Draw(0, 0))
    assert alone == [masked[i] for i in some]
    assert drawn(head, sequences, targets, epoch=1)[0] != masked
    assert drawn(head, sequences, targets, seed=1)[0] != masked


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_labels_are_the_hidden_tokens_and_special_tokens_are_never_hidden(
    masking: str, backbone: Any, toys: Any
) -> None:
    head = head_on(backbone, masking=masking)
    sequences, targets = sequences_of(head, backbone, toys)
    special = set(backbone.tokenizer.all_special_ids)
    for epoch in range(20):
        masked, table = drawn(head, sequences, targets, epoch)
        hidden = {(int(i), int(p)): int(label) for i, p, label in table}
        assert len(hidden) == len(table)
        assert {i for i, _ in hidden} == set(range(len(sequences)))
        for i, sequence in enumerate(sequences):
            for position, token in enumerate(sequence):
                if (i, position) in hidden:
                    assert hidden[i, position] == token
                    assert token not in special
                else:
                    assert masked[i][position] == token


def test_the_shares_of_hidden_masked_and_random_tokens_are_those_of_the_options(backbone: Any) -> None:
    head = head_on(backbone, mask_probability=0.2, mask_replace=0.6, random_replace=0.3)
    word = backbone.tokenizer.convert_tokens_to_ids("cat")
    sequences = [[2, *[word] * 50, 3]] * 200
    masked, table = drawn(head, sequences, {})
    assert len(table) == 200 * 10
    became = np.array([masked[i][p] for i, p, _ in table])
    assert np.mean(became == backbone.tokenizer.mask_token_id) == pytest.approx(0.6, abs=0.03)
    assert np.mean((became != word) & (became != backbone.tokenizer.mask_token_id)) == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_words_are_hidden_whole(masking: str, backbone: Any, toys: Any) -> None:
    head = head_on(backbone, masking=masking)
    sequences, targets = sequences_of(head, backbone, toys)
    divided = 0
    for epoch in range(10):
        _, table = drawn(head, sequences, targets, epoch)
        for i, words in enumerate(targets["words"]):
            chosen = set(table[table[:, 0] == i, 1].tolist())
            for word in {words[p] for p in chosen}:
                pieces = {p for p, owner in enumerate(words) if owner == word}
                assert pieces <= chosen
                divided += len(pieces) > 1
    assert divided > 20


def test_a_text_of_special_tokens_alone_has_no_targets(backbone: Any) -> None:
    head = head_on(backbone)
    masked, targets = head.collate([[2, 1, 3]], {}, [0], Draw(0, 0))
    assert masked == [[2, 1, 3]]
    assert targets.count == 0


def test_a_long_text_becomes_several_examples_and_nothing_is_lost(backbone: Any, toys: Any) -> None:
    head = head_on(backbone)
    text = " ".join(row["text"] for row in toys.rows(20))
    encoded = head.encode({"text": [text, "the cat"]}, backbone.tokenizer, 16)
    assert max(map(len, encoded.sequences)) == 16
    assert encoded.rows == [0] * (len(encoded.sequences) - 1) + [1]
    tokens = [token for sequence in encoded.sequences[:-1] for token in sequence[1:-1]]
    assert tokens == backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_equals_the_loss_of_the_plain_class(name: str, models: Any, toys: Any) -> None:
    backbone = encoder.build(EncoderOptions(model=str(models[name])))
    backbone.trunk.eval()
    head = head_on(backbone)
    masked, targets = head.collate(*sequences_of(head, backbone, toys, 6), range(6), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": masked}, return_tensors="pt")
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[targets.tensors["sequence"], targets.tensors["position"]] = targets.tensors["label"]
    plain = AutoModelForMaskedLM.from_pretrained(models[name], dtype=torch.float32).eval()
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    with torch.no_grad():
        loss = head.loss(features, targets) / targets.count
        torch.testing.assert_close(loss, plain(**inputs, labels=labels).loss, atol=1e-5, rtol=0)
    assert head.metrics([], [], float(loss))["perplexity"] == pytest.approx(float(loss.exp()))


def test_logits_made_a_part_at_a_time_change_neither_loss_nor_gradient(
    backbone: Any, toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = head_on(backbone, mask_probability=0.5)
    rows = loading.from_python(toys.rows(8), task="t")
    drawn = encode(rows, head, backbone.tokenizer, 64).draw(range(8), head, Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": drawn.sequences}, return_tensors="pt")
    found = []
    for limit in (10_000, 5):
        monkeypatch.setattr(vocabulary_loss, "RECOMPUTED_ROWS", limit)
        features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
        loss = head.loss(features, drawn.targets)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in head.parameters() if p.grad is not None)])
        head.zero_grad()
    assert drawn.targets.count > 20
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_shares_that_add_up_to_more_than_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="random_replace"):
        Options(mask_replace=0.8, random_replace=0.5)


def test_masked_language_modelling_needs_a_bidirectional_backbone_with_an_lm_head(models: Any) -> None:
    for backbone, reason in (
        (decoder.build(DecoderOptions(model=str(models["llama"]))), "autoregressive"),
        (encoder.build(EncoderOptions(model=str(models["splinter"]))), "no LM head"),
    ):
        with pytest.raises(PluginError, match=rf"^task 'words': .*{reason}[^\n]*$"):
            assembly.attach(backbone, {"words": build(Options(), task="words")})
