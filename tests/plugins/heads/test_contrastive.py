from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.batching.collate import Collator
from hft_core.batching.plan import TaskSlice
from hft_core.combiner import Combiner
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.device.machine import find_machine
from hft_core.errors import DataError
from hft_core.gradients import combine
from hft_core.head import Draw, Targets
from hft_core.model.hybrid import HybridModel
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.contrastive import SAME_NEGATIVE, SAME_POSITIVE, Contrastive, Options, build

PAIR = {"text": ("anchor", "positive")}


def head_of(**options: Any) -> Contrastive:
    return build(Options(**options), task="t")


def targets_of(units: list[list[str]]) -> Targets:
    """Targets of units of texts: anchor, positive, negatives."""
    positions = [i for unit in units for i in range(len(unit))]
    numbers: dict[str, int] = {}
    texts = [numbers.setdefault(text, len(numbers)) for unit in units for text in unit]
    _, targets = head_of(**PAIR).collate([], {"position": positions, "text": texts}, range(len(texts)), Draw(0, 0))
    return targets


def embeddings_of(units: list[list[str]], seed: int = 0) -> torch.Tensor:
    """A random direction for each different text."""
    random = np.random.default_rng(seed)
    known: dict[str, Any] = {}
    rows = [known.setdefault(text, random.normal(size=6)) for unit in units for text in unit]
    return functional.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=1)


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """A word, and a sentence about it."""
    random = np.random.default_rng((seed, 3))
    words = ["cat", "dog", "horse", "bank", "market", "striker", "runner", "river", "morning", "friday"]
    verbs = ["saw", "followed", "called"]
    return [
        {"anchor": words[i % 10], "positive": f"the {words[i % 10]} {random.choice(verbs)} the {words[i % 10]} again"}
        for i in range(count)
    ]


def plainly(embeddings: torch.Tensor, units: list[list[str]], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE from its definition, one anchor at a time: -log(exp(s⁺/τ) / Σ exp(s/τ)); and the same backwards."""
    starts = np.cumsum([0, *map(len, units)]).tolist()
    forward, backward = torch.zeros(()), torch.zeros(())
    for i, unit in enumerate(units):
        anchor, total, total_back = embeddings[starts[i]], 0.0, 0.0
        own = torch.exp(anchor @ embeddings[starts[i] + 1] / temperature)
        for j, other in enumerate(units):
            for place in range(1, len(other)):
                total += torch.exp(anchor @ embeddings[starts[j] + place] / temperature)
            total_back += torch.exp(embeddings[starts[j]] @ embeddings[starts[i] + 1] / temperature)
        assert len(unit) >= 2
        forward, backward = forward - torch.log(own / total), backward - torch.log(own / total_back)
    return forward, backward


@pytest.mark.parametrize(
    "units", [[["a", "b"], ["c", "d"], ["e", "f"]], [["a", "b", "x", "y"], ["c", "d"], ["e", "f", "z"]]]
)
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_equals_info_nce_by_its_definition(units: list[list[str]], temperature: float) -> None:
    embeddings = embeddings_of(units)
    forward, backward = plainly(embeddings, units, temperature)
    head = head_of(**PAIR, temperature=temperature)
    torch.testing.assert_close(head.joint_loss(embeddings, targets_of(units)), forward, rtol=1e-5, atol=1e-5)
    both = head_of(**PAIR, temperature=temperature, symmetric=True).joint_loss(embeddings, targets_of(units))
    torch.testing.assert_close(both, (forward + backward) / 2, rtol=1e-5, atol=1e-5)
    assert targets_of(units).count == 3


def test_equals_the_multiple_negatives_ranking_loss() -> None:
    """sentence-transformers: cross-entropy of `scale * cos_sim(anchors, candidates)`, candidate i for anchor i."""
    units = [["a", "b", "n"], ["c", "d", "m"], ["e", "f", "k"], ["g", "h", "j"]]
    raw = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    anchors, positives, negatives = raw[0::3], raw[1::3], raw[2::3]
    candidates = torch.cat([positives, negatives])
    scores = 20.0 * functional.normalize(anchors, dim=1) @ functional.normalize(candidates, dim=1).T
    reference = functional.cross_entropy(scores, torch.arange(4))
    loss = head_of(**PAIR).joint_loss(functional.normalize(raw, dim=1), targets_of(units))
    torch.testing.assert_close(loss / 4, reference)


@pytest.mark.parametrize(
    ("units", "left_out"),
    [
        ([["a", "b"], ["c", "b"], ["e", "f"]], [(0, 1), (1, 0)]),
        ([["a", "b"], ["a", "d"], ["e", "f"]], [(0, 1), (1, 0)]),
        ([["a", "b"], ["b", "a"], ["e", "f"]], [(0, 1), (1, 0)]),
        ([["a", "a"], ["a", "a"], ["e", "e"]], [(0, 1), (1, 0)]),
        ([["a", "b"], ["c", "d"], ["e", "f"]], []),
    ],
    ids=["same positive", "same anchor", "turned round", "same text", "all different"],
)
def test_a_text_that_stands_twice_in_a_step_is_no_false_negative(
    units: list[list[str]], left_out: list[tuple[int, int]]
) -> None:
    embeddings = embeddings_of(units)
    similar = embeddings[0::2] @ embeddings[1::2].T / 0.05
    for anchor, candidate in left_out:
        similar[anchor, candidate] = -math.inf
    loss = head_of(**PAIR).joint_loss(embeddings, targets_of(units))
    torch.testing.assert_close(loss, functional.cross_entropy(similar, torch.arange(3), reduction="sum"))


def test_one_row_has_nothing_to_learn_from_and_no_bad_gradient() -> None:
    embeddings = embeddings_of([["a", "b"]]).requires_grad_()
    loss = head_of(**PAIR, symmetric=True).joint_loss(embeddings, targets_of([["a", "b"]]))
    loss.backward()
    assert loss.item() == 0.0
    assert embeddings.grad is not None and not embeddings.grad.any()


def test_the_loss_is_in_float32_where_the_trunk_computes_in_bfloat16() -> None:
    units = [["a", "b"], ["c", "d"], ["e", "f"]]
    embeddings, head = embeddings_of(units), head_of(**PAIR)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head.joint_loss(embeddings, targets_of(units))
    assert torch.equal(inside, head.joint_loss(embeddings, targets_of(units)))


def test_a_row_is_a_unit_of_anchor_positive_and_negatives(models: Any) -> None:
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    rows = {"anchor": ["cat", "dog"], "positive": ["a cat", "a dog"], "negative": [["bank", "market"], []]}
    encoded = head_of(**PAIR, negatives="negative").encode(rows, tokenizer, 64)
    assert encoded.units == encoded.rows == [0, 0, 0, 0, 1, 1]
    assert encoded.targets["position"] == [0, 1, 2, 3, 0, 1]
    assert encoded.sequences == tokenizer(["cat", "a cat", "bank", "market", "dog", "a dog"])["input_ids"]
    apart = {**rows, "negative": ["bank", "market"], "other": ["bank", "bank"]}
    encoded = head_of(**PAIR, negatives=("negative", "other")).encode(apart, tokenizer, 64)
    assert encoded.units == [0, 0, 0, 0, 1, 1, 1, 1]
    same = [text for text in encoded.targets["text"] if encoded.targets["text"].count(text) > 1]
    assert len(same) == 3, "equal texts have equal numbers"
    alone = head_of(**PAIR).encode({"anchor": ["cat", "dog"]}, tokenizer, 64)
    assert alone.targets["position"] == [0, 0]
    twice = head_of(text="anchor").encode({"anchor": ["cat", "dog"]}, tokenizer, 64)
    assert twice.units == [0, 0, 1, 1]


@pytest.mark.parametrize(("model", "pooling"), [("bert", "mean"), ("bert", "cls"), ("bert", "last"), ("llama", None)])
def test_an_embedding_is_that_of_the_text_alone_whatever_its_batch(model: str, pooling: Any, models: Any) -> None:
    build_backbone: Callable[..., Any] = decoder.build if model == "llama" else encoder.build
    options = DecoderOptions if model == "llama" else EncoderOptions
    backbone = build_backbone(options(model=str(models[model])))
    backbone.trunk.eval()
    head = head_of(**PAIR, pooling=pooling)
    head.attach(backbone)
    texts = ["the cat", "the dog saw the old river in the early morning", "on friday"]

    def hidden(some: list[str]) -> Features:
        inputs = backbone.tokenizer(some, padding=True, return_tensors="pt", padding_side="right")
        inputs.pop("token_type_ids", None)
        return Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])

    together = head.embed(hidden(texts))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for text, embedding in zip(texts, together, strict=True):
        alone = hidden([text])
        place = {"mean": alone.hidden[0].mean(dim=0), "cls": alone.hidden[0, 0]}.get(pooling, alone.hidden[0, -1])
        torch.testing.assert_close(embedding, functional.normalize(place, dim=0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"projection_dim": 8}])
def test_a_step_divided_into_batches_has_the_gradient_of_the_whole(options: dict[str, Any], models: Any) -> None:
    backbone = encoder.build(EncoderOptions(model=str(models["bert"]), dropout=0.0))
    head = head_of(**PAIR, **options)
    head.attach(backbone)
    model = HybridModel(backbone, {"t": head})
    examples = encode(loading.from_python(pairs(8), task="t"), head, backbone.tokenizer, 64)
    part = TaskSlice("t", 0, np.arange(8))
    machine, found = find_machine("fp32"), []
    for max_units in (8, 3):
        batches = Collator({"t": examples}, {"t": head}, seed=0, pad=0).step_batches(
            [part], max_units=max_units, max_tokens=None, one_task_per_batch=True
        )
        model.zero_grad()
        losses = combine.fill(model, Combiner(("t",)), batches, machine, 0).losses
        found.append(
            (len(batches), losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (one, loss, whole), (several, loss_divided, divided) = found
    assert one < several
    torch.testing.assert_close(loss_divided, loss)
    assert whole.keys() == divided.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(divided[name], gradient, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_mrr_are_those_of_the_whole_split_by_hand(seed: int) -> None:
    units = [[f"a{i}", f"p{i}", f"n{i}"] for i in range(7)] + [["a0", "p7"], ["x", "p1"]]
    embeddings = embeddings_of(units, seed)
    texts = [text for unit in units for text in unit]
    numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    positions = [i for unit in units for i in range(len(unit))]
    own_of = {"p0": {"p7"}, "p7": {"p0"}}
    ranks = []
    for unit in units:
        anchor, own = embeddings[texts.index(unit[0])], embeddings[texts.index(unit[1])]
        rivals = {t for u in units for t in u[1:]} - {unit[1]} - own_of.get(unit[1], set())
        ranks.append(1 + sum(float(anchor @ embeddings[texts.index(t)]) > float(anchor @ own) for t in rivals))
    references = list(zip(positions, [numbers[text] for text in texts], strict=True))
    found = head_of(**PAIR).metrics(embeddings.tolist(), references, 0.3)
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert found["accuracy"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))


def test_with_one_column_it_is_self_supervised_and_measured_by_its_loss() -> None:
    one, two = head_of(), head_of(**PAIR)
    assert (one.supervised, one.main_metric, one.greater_is_better) == (False, "loss", False)
    assert (two.supervised, two.main_metric, two.greater_is_better) == (True, "mrr", True)
    assert one.metrics([[1.0]], [(0, 1)], 0.5) == {"loss": 0.5}
    assert [column.name for column in one.columns()] == ["text"]
    assert [column.target for column in two.columns()] == [False, True]


def run(parts: dict[str, Any], model: Any, task: dict[str, Any], **more: Any) -> Any:
    stage = {"strategy": "full", "max_steps": 30, "eval_strategy": "no", "head_warmup_steps": 0, "learning_rate": 1e-3}
    recipe = {
        "backbone": {"model": str(model), **more.pop("backbone", {})},
        "tasks": {"near": {"head": "contrastive", **task}},
        "stages": [{**stage, "per_device_train_batch_size": 10, **more.pop("stage", {})}],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"near": parts}, **more)


def test_pairs_are_found_after_training_and_plain_transformers_gives_the_same_embeddings(
    models: Any, tmp_path: Path
) -> None:
    parts = {"train": pairs(60), "test": pairs(10, seed=1)}
    before = run(parts, models["bert"], PAIR, stage={"max_steps": 1}).final["test"]["near"]
    after = run(parts, models["bert"], PAIR, output=tmp_path / "run").final["test"]["near"]
    assert after["mrr"] >= max(0.9, before["mrr"])
    assert after["loss"] < before["loss"]
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    rows = loading.from_python(parts["test"], task="near")
    answers = prediction.predict(opened, "near", rows)
    assert prediction.evaluate(opened, "near", rows) == pytest.approx(after, abs=1e-5)
    trunk = AutoModel.from_pretrained(tmp_path / "run/model/trunk").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/model/trunk")
    inputs = tokenizer([row["anchor"] for row in parts["test"]], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = trunk(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    mean = functional.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
    torch.testing.assert_close(torch.tensor([a["value"] for a in answers]), mean, atol=1e-5, rtol=0)
    (alone,) = prediction.predict(opened, "near", loading.from_python([{"anchor": "cat"}], task="near"))
    assert alone.keys() == {"value"}
    assert alone["value"] == pytest.approx(answers[0]["value"], abs=1e-5)


def test_a_projection_is_saved_with_the_run(models: Any, tmp_path: Path) -> None:
    parts = {"train": pairs(20), "test": pairs(10, seed=1)}
    made = run(parts, models["bert"], {**PAIR, "projection_dim": 8}, stage={"max_steps": 3}, output=tmp_path / "run")
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    rows = loading.from_python(parts["test"], task="near")
    assert prediction.evaluate(opened, "near", rows) == pytest.approx(made.final["test"]["near"], abs=1e-5)
    assert len(prediction.predict(opened, "near", rows)[0]["value"]) == 8


def test_simcse_spreads_texts_out(models: Any, toys: Any) -> None:
    parts = {
        split: [{"text": row["text"]} for row in toys.rows(40, seed=seed)]
        for split, seed in (("train", 0), ("test", 1))
    }
    before = run(parts, models["bert"], {}, stage={"max_steps": 1}).final["test"]["near"]
    after = run(parts, models["bert"], {}).final["test"]["near"]
    assert after["loss"] < 0.8 * before["loss"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"anchor": "cat"}, r"row 3 of task 'near': column 'positive': found nothing"),
        ({"anchor": " ", "positive": "a cat"}, r"row 3 of task 'near': column 'anchor'"),
        ({"anchor": "cat", "positive": "a cat", "negatives": ["dog", ""]}, r"row 3 .*'negatives': item 2"),
    ],
)
def test_a_bad_row_ends_the_run_before_training(bad: dict[str, Any], problem: str, models: Any) -> None:
    rows = [{**row, "negatives": []} for row in pairs(2)]
    with pytest.raises(DataError, match=problem):
        run({"train": [*rows, {"negatives": [], **bad}]}, models["bert"], {**PAIR, "negatives": "negatives"})


def test_pairs_that_teach_nothing_are_noted(models: Any) -> None:
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    head = head_of(**PAIR, negatives="others")
    rows = {
        "anchor": ["the cat", "the cat", "the cat", "the cat"],
        "positive": ["the dog", "The  Cat", "the dog", "the dog"],
        "others": [["the bank"], ["the bank"], ["the bank", "the dog"], []],
    }
    assert head.encode(rows, tokenizer, 32).notes == {1: SAME_POSITIVE, 2: SAME_NEGATIVE}


def test_positives_that_are_all_the_same_are_refused_and_missing_negatives_told() -> None:
    head = head_of(**PAIR, negatives="others")
    with pytest.raises(ValueError, match="column 'positive': all 2 rows have the same text"):
        head.learn({"anchor": ["a", "b"], "positive": ["c", "c "], "others": [["x"], []]})
    head.learn({"anchor": ["a", "b"], "positive": ["c", "d"], "others": [[], []]})
    assert head.warnings == ["column 'others': no row has a negative"]
