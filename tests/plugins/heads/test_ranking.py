from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError
from hft_core.head import Draw, Targets
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.heads.parts.example_rows import ranking as example_rows
from hft_plugins.heads.ranking import Options, Ranking, build

LOSSES = ("pointwise", "pairwise", "listwise")


def of_queries(**relevances: list[float]) -> list[dict[str, Any]]:
    """Rows by query."""
    return [
        {"query": query, "document": f"document {i}", "label": label}
        for query, labels in relevances.items()
        for i, label in enumerate(labels)
    ]


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def head_of(rows: list[dict[str, Any]], **options: Any) -> Ranking:
    head = build(Options(**options), task="t")
    head.learn(columns_of(rows))
    return head


def loss_of(head: Ranking, scores: list[list[float]], relevances: list[list[float]]) -> tuple[torch.Tensor, int]:
    """The loss of given scores by query, and its count."""
    flat = [score for query in scores for score in query]
    head.scorer = lambda features: torch.tensor(flat)[:, None]  # type: ignore[assignment]
    compared = head.options.loss != "pointwise"
    targets = {
        "target": [value for query in relevances for value in query],
        "position": [i if compared else 0 for query in relevances for i in range(len(query))],
        "query": [0] * len(flat),
    }
    _, collated = head.collate([], targets, range(len(flat)), Draw(0, 0))
    return head.loss(None, collated), collated.count  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_the_pairwise_loss_is_ranknets(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = (3, 5, 2)
    scores = [random.normal(size=n).tolist() for n in sizes]
    relevances = [random.integers(3, size=n).astype(float).tolist() for n in sizes]
    head = head_of(of_queries(a=[0, 2]), loss="pairwise")
    total, pairs = 0.0, 0
    for s, r in zip(scores, relevances, strict=True):
        for i, j in combinations(range(len(s)), 2):
            if r[i] != r[j]:
                high, low = (i, j) if r[i] > r[j] else (j, i)
                total += math.log(1 + math.exp(s[low] - s[high]))
                pairs += 1
    loss, count = loss_of(head, scores, relevances)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert count == pairs


@pytest.mark.parametrize("seed", range(3))
def test_the_listwise_loss_is_listnets(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = (3, 5, 2)
    scores = [random.normal(size=n).tolist() for n in sizes]
    relevances = [[2.0, 0.0, 1.0], random.integers(3, size=5).astype(float).tolist(), [1.0, 1.0]]
    head = head_of(of_queries(a=[0, 2]), loss="listwise", temperature=None)
    total = 0.0
    for s, r in zip(scores[:2], relevances, strict=False):
        wanted = np.exp(r) / np.exp(r).sum()
        total -= float((wanted * np.log(np.exp(s) / np.exp(s).sum())).sum())
    loss, count = loss_of(head, scores, relevances)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert count == 2, "candidates of one relevance have no order to learn"


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_targets_of_a_list_are_scaled_so_that_clicks_teach(temperature: float) -> None:
    head = head_of(of_queries(a=[0, 4]), loss="listwise", temperature=temperature)
    scores, relevances = [[0.5, -1.0, 2.0], [0.3, 0.1]], [[0.0, 4.0, 1.0], [1.0, 0.0]]
    loss, _ = loss_of(head, scores, relevances)
    wanted = torch.tensor(0.0)
    for said, true in zip(map(torch.tensor, scores), map(torch.tensor, relevances), strict=True):
        target = (true - true.min()) / (true.max() - true.min()) / temperature
        wanted = wanted + functional.cross_entropy(said, target.softmax(dim=0), reduction="sum")
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_a_query_of_one_relevance_has_no_loss_and_no_gradient(loss: str) -> None:
    head = head_of(of_queries(a=[0, 1]), loss=loss)
    value, count = loss_of(head, [[0.3, -1.0, 2.0]], [[1.0, 1.0, 1.0]])
    assert (float(value), count) == (0.0, 0)


def test_the_pointwise_loss_is_binary_cross_entropy_up_to_1_and_squared_error_above() -> None:
    scores, probabilities, grades = [[0.5, -2.0], [1.0]], [[1.0, 0.25], [0.0]], [[1.0, 3.0], [0.0]]
    loss, count = loss_of(head_of(of_queries(a=[0, 1])), scores, probabilities)
    flat = torch.tensor([0.5, -2.0, 1.0])
    wanted = functional.binary_cross_entropy_with_logits(flat, torch.tensor([1.0, 0.25, 0.0]), reduction="sum")
    torch.testing.assert_close(loss, wanted)
    assert count == 3
    loss, count = loss_of(head_of(of_queries(a=[0, 3])), scores, grades)
    torch.testing.assert_close(loss, functional.mse_loss(flat, torch.tensor([1.0, 3.0, 0.0]), reduction="sum"))
    assert count == 3


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_where_queries_have_different_numbers_of_candidates(loss: str, models: Any) -> None:
    rows = of_queries(a=[1, 0, 0, 1], b=[0, 1], c=[0, 0, 0])
    head = head_of(rows, loss=loss)
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    head.attach(backbone)
    features, targets = batch_of(head, backbone, rows)
    head.loss(features, targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert any(p.grad.any() for p in head.parameters() if p.grad is not None)


def batch_of(head: Ranking, backbone: Any, rows: list[dict[str, Any]]) -> tuple[Features, Targets]:
    encoded = head.encode(columns_of(rows), backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(encoded.sequences)), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences, **encoded.extra}, return_tensors="pt")
    backbone.trunk.eval()
    return Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"]), targets


def test_a_query_is_a_unit_and_a_large_one_is_divided_with_its_relevant_candidates_dealt_out(models: Any) -> None:
    rows = of_queries(a=[1, 0, 0], b=[2, 1, 1, 0, 0, 0, 0])
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    encoded = head_of(rows, loss="listwise", group_size=4).encode(columns_of(rows), tokenizer, 64)
    assert encoded.units == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert encoded.targets["position"] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2]
    assert encoded.targets["target"] == [1, 0, 0, 2, 1, 0, 0, 1, 0, 0]
    assert sorted(encoded.rows) == list(range(10))
    for sequence, row in zip(encoded.sequences, encoded.rows, strict=True):
        assert sequence == tokenizer(rows[row]["query"], rows[row]["document"])["input_ids"]
    assert len(set(encoded.targets["query"])) == 2
    alone = head_of(rows).encode(columns_of(rows), tokenizer, 64)
    assert alone.units == alone.rows == list(range(10))


@pytest.mark.parametrize("seed", range(4))
def test_ndcg_and_average_precision_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    head = head_of(of_queries(a=[0, 1]), k=3)
    references, predictions, ndcg, precision = [], [], [], []
    for query in range(6):
        relevance, score = random.integers(4, size=8), random.normal(size=8)
        references += [(query, float(r)) for r in relevance]
        predictions += score.tolist()
        ndcg.append(ndcg_score([relevance], [score], k=3))
        precision.append(average_precision_score(relevance > 0, score))
    found = head.metrics(predictions, references, 0.2)
    assert found["ndcg@3"] == pytest.approx(np.mean(ndcg))
    assert found["map"] == pytest.approx(np.mean(precision))
    assert set(found) == {"loss", "ndcg@3", "mrr", "map", "recall@3"}
    assert head.main_metric == "ndcg@3"


def test_reciprocal_rank_and_recall_are_those_by_hand() -> None:
    head = head_of(of_queries(a=[0, 1]), k=2)
    references = [(1, 0.0), (1, 2.0), (1, 1.0), (2, 1.0), (2, 0.0), (2, 0.0), (3, 0.0), (3, 0.0)]
    predictions = [0.9, 0.5, 0.1, 0.0, 1.0, 2.0, 5.0, 1.0]
    found = head.metrics(predictions, references, 0.0)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 3) / 2), "a query without a relevant document is left out"
    assert found["recall@2"] == pytest.approx((1 / 2 + 0) / 2)


def test_equal_scores_are_no_ranking() -> None:
    head = head_of(of_queries(a=[0, 1]), k=1)
    found = head.metrics([1.0] * 4, [(0, 1.0), (0, 0.0), (0, 0.0), (0, 0.0)], 0.0)
    assert found["mrr"] == 0.25
    assert found["recall@1"] == 0.0
    assert found["map"] == found["ndcg@1"] == 0.25
    assert head.metrics([1.0], [(0, 0.0)], 0.0) == {"loss": 0.0, "ndcg@1": 0, "mrr": 0, "map": 0, "recall@1": 0}


def run(rows: list[dict[str, Any]], model: Any, task: dict[str, Any], **more: Any) -> Any:
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {"search": {"head": "ranking", **task}},
        "stages": [
            {"strategy": "full", "learning_rate": 3e-3, "max_steps": 60, "eval_strategy": "no", "head_warmup_steps": 0}
            | {"per_device_train_batch_size": 8 if task.get("loss", "pointwise") == "pointwise" else 4}
        ],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"search": {"train": rows, "test": example_rows(40, seed=1)}}, **more)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_learns_to_put_relevant_documents_first(loss: str, models: Any) -> None:
    made = run(example_rows(160, seed=0), models["bert"], {"loss": loss})
    assert made.final["test"]["search"]["ndcg@10"] >= 0.9


def test_a_saved_ranker_is_an_ordinary_cross_encoder(models: Any, tmp_path: Path) -> None:
    rows = example_rows(40, seed=0)
    run(rows, models["bert"], {"loss": "listwise"}, output=tmp_path / "run")
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    answers = prediction.predict(opened, "search", loading.from_python(rows[::-1], task="search"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model/search").eval()
    assert plain.config.num_labels == 1
    texts = [[row[name] for row in rows[::-1]] for name in ("query", "document")]
    with torch.no_grad():
        told = plain(**opened.model.backbone.tokenizer(*texts, padding=True, return_tensors="pt")).logits[:, 0]
    assert [answer["value"] for answer in answers] == pytest.approx(told.tolist(), abs=1e-5)


def test_a_query_stays_in_one_split(models: Any) -> None:
    from hft_core.recipe.recipe_file import from_dict
    from hft_core.recipe.resolve import resolve
    from hft_core.runs import assembly

    recipe = {"backbone": {"model": str(models["bert"])}, "tasks": {"search": {"head": "ranking"}}, "stages": [{}]}
    resolved = resolve(from_dict(recipe), Catalogue.discover())
    heads = assembly.build_heads(resolved)
    parts = assembly.load_rows(resolved, heads, {"search": example_rows(160, seed=0)})["search"]
    queries = [set(parts[split]["query"]) for split in ("train", "dev", "test")]
    assert all(not one & other for one, other in combinations(queries, 2))


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        (
            of_queries(a=[0, 1], b=[1]),
            {"loss": "pairwise"},
            "row 3 of .*'query': the query has this one candidate only",
        ),
        (of_queries(a=[0, 1], b=[1]), {"loss": "listwise"}, "row 3 of .*expected two or more for the loss 'listwise'"),
        (of_queries(a=[0, -1]), {}, "row 2 of .*column 'label': found the relevance -1, expected a number from 0"),
        ([*of_queries(a=[0, 1]), {"query": "b", "document": "d", "label": "high"}], {}, "row 3 of .*'label'.*a finite"),
        ([*of_queries(a=[0, 1]), {"query": " ", "document": "d", "label": 1}], {}, "row 3 of .*'query'"),
    ],
)
def test_a_bad_row_ends_the_run_before_training(
    rows: list[dict[str, Any]], options: dict[str, Any], problem: str, models: Any
) -> None:
    with pytest.raises(DataError, match=problem):
        run(rows, models["bert"], options)


def test_a_relevance_that_the_loss_does_not_know_is_refused() -> None:
    row = {"query": "a", "document": "d", "label": 2}
    assert "expected at most 1" in head_of(of_queries(a=[0, 1])).check(row)
    assert head_of(of_queries(a=[0, 3])).check(row) == ""
    assert head_of(of_queries(a=[0, 1]), loss="listwise").check(row) == ""
    by_id = head_of(
        [{"query": "a", "document": "d", "id": i // 2, "label": i} for i in range(3)], loss="pairwise", group_by="id"
    )
    assert by_id.group_column == "id"
    assert "column 'id'" in by_id.check({**row, "id": 1})
    assert by_id.check({**row, "id": 0}) == ""


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        ([[1, 1, 1]] * 5, "all candidates are equally relevant"),
        ([[0], [1]] * 5, "each query has one candidate"),
        ([[1, 2, 3], [2, 1]] * 5, "each query has the relevances 1, 2, 3 …, once each, as ranks are"),
        ([[0, 1, 2], [2, 1]] * 5, ""),
        ([[1, 2, 2], [2, 1]] * 5, ""),
        ([[1, 0], [1]] * 5, ""),
        ([[1, 1, 1]] * 4, ""),
    ],
)
def test_odd_relevances_are_told_of(queries: list[list[float]], said: str) -> None:
    found = head_of(of_queries(**{f"q{i}": query for i, query in enumerate(queries)})).warnings
    assert [said in line for line in found] == [True] * bool(said)


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_queries_whose_candidates_are_equally_relevant_teach_these_losses_nothing(loss: str) -> None:
    with pytest.raises(ValueError, match=f"in no query do two candidates differ in relevance.*'{loss}'"):
        head_of(of_queries(one=[1, 1], two=[0, 0]), loss=loss)
    assert head_of(of_queries(one=[1, 1], two=[0, 1]), loss=loss).facts == {"max_relevance": 1}
