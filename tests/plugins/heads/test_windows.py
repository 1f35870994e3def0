"""Long texts in windows: every token is read, and the outputs of windows are pooled to those of the text."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

import hft_core
from hft_core import Catalogue
from hft_core.errors import UsageError
from hft_core.export.export_run import export_run
from hft_core.predict.prediction import evaluate, predict
from hft_core.predict.saved_run import open_run
from hft_plugins.heads.parts import windows
from hft_plugins.heads.parts.example_rows import token_classification

LIMIT, STRIDE = 12, 4
LONG = {"window": {"stride": STRIDE}}


@pytest.fixture(scope="module", autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""


@pytest.fixture
def tokenizer(models: Any) -> Any:
    return AutoTokenizer.from_pretrained(models["bert"])


def long_rows(toys: ModuleType, count: int, seed: int = 0, tail: int = 3) -> list[dict[str, Any]]:
    """Rows whose own text stands behind others of no meaning for the label."""
    rows, rng = toys.rows(count, seed=seed), np.random.default_rng(seed)
    before = ["the of and to in a is it"] * 4
    return [
        {**row, "text": " ".join([*before[: int(rng.integers(tail + 1))], row["text"]]), "id": i}
        for i, row in enumerate(rows)
    ]


def test_windows_overlap_and_hold_every_token(tokenizer: Any) -> None:
    texts = ["the cat saw the dog " * 10, "a dog", "the dog and the cat " * 4]
    found = windows.encode([texts], tokenizer, LIMIT, windows.Window(stride=STRIDE))
    assert max(map(len, found.sequences)) == LIMIT
    assert found.units == found.rows == sorted(found.rows)
    for row, text in enumerate(texts):
        own = [i for i, of in enumerate(found.rows) if of == row]
        assert [found.targets["position"][i] for i in own] == list(range(len(own)))
        inner = [found.sequences[i][1:-1] for i in own]
        assert all(a[-STRIDE:] == b[:STRIDE] for a, b in pairwise(inner))
        whole = inner[0] + [token for part in inner[1:] for token in part[STRIDE:]]
        assert whole == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_is_behind_the_last_window_is_said(tokenizer: Any) -> None:
    found = windows.encode([["the cat " * 40, "a dog"]], tokenizer, LIMIT, windows.Window(stride=STRIDE, most=3))
    assert found.rows == [0, 0, 0, 1]
    assert list(found.notes) == [0]
    assert "more than 3 windows of 12 tokens; what is behind them is cut" in found.notes[0]


@pytest.mark.parametrize("pool", ["mean", "max", "first"])
@pytest.mark.parametrize("shape", [(7,), (7, 3)])
def test_outputs_are_pooled_by_row(pool: Any, shape: tuple[int, ...]) -> None:
    outputs = torch.randn(shape, requires_grad=True)
    rows = [slice(0, 3), slice(3, 4), slice(4, 7)]
    how = {"mean": lambda t: t.mean(dim=0), "max": lambda t: t.amax(dim=0), "first": lambda t: t[0]}[pool]
    expected = torch.stack([how(outputs[row]) for row in rows])
    found = windows.pooled(outputs, torch.tensor([0, 1, 2, 0, 0, 1, 2]), pool)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(t.square().sum(), outputs)[0] for t in (found, expected)))


def trained(model: Path, head: dict[str, Any], data: Any, folder: Path, **stage: Any) -> Any:
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {"topic": {"head": head, "max_length": LIMIT}},
        "stages": [{"max_steps": 6, "train_batch_size": 8, "max_rows_per_batch": 3, "head_warmup_steps": 0, **stage}],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"topic": data}, output=folder)


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_run_scores_predicts_and_keeps_answers_by_text(pool: str, models: Any, toys: Any, tmp_path: Path) -> None:
    """The probabilities are those of the plain class on windows that are made by hand."""
    data = {"train": long_rows(toys, 24), "dev": long_rows(toys, 12, seed=1), "test": long_rows(toys, 10, seed=2)}
    head = {"type": "classification", "window": {"stride": STRIDE, "pool": pool}}
    result = trained(models["bert"], head, data, tmp_path / "run")
    run = open_run(tmp_path / "run", Catalogue.discover())
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model/topic").eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "run/model/topic")
    labels = [plain.config.id2label[i] for i in range(plain.config.num_labels)]

    def by_hand(text: str) -> Tensor:
        ids, step = tokenizer(text, add_special_tokens=False)["input_ids"], LIMIT - 2 - STRIDE
        parts = [ids[at : at + LIMIT - 2] for at in range(0, max(1, len(ids) - STRIDE), step)]
        rows = [torch.tensor([[tokenizer.cls_token_id, *part, tokenizer.sep_token_id]]) for part in parts]
        with torch.no_grad():
            logits = torch.cat([plain(row).logits for row in rows])
        return (logits.mean(dim=0) if pool == "mean" else logits.amax(dim=0)).softmax(dim=0)

    expected = [by_hand(row["text"]) for row in data["test"]]
    said = predict(run, "topic", [{"text": row["text"]} for row in data["test"]])
    for answer, probabilities in zip(said, expected, strict=True):
        torch.testing.assert_close(
            torch.tensor(list(answer["probabilities"].values())), probabilities, atol=1e-5, rtol=0
        )
    right = [labels[int(p.argmax())] == row["label"] for p, row in zip(expected, data["test"], strict=True)]
    assert result.final["test"]["topic"]["accuracy"] == pytest.approx(np.mean(right))
    loss = np.mean([-float(p[labels.index(row["label"])].log()) for p, row in zip(expected, data["test"], strict=True)])
    assert result.final["test"]["topic"]["loss"] == pytest.approx(loss, abs=1e-5)
    kept = pq.read_table(tmp_path / "run/predictions/test/topic.parquet").to_pydict()
    assert len(kept["prediction"]) == 10
    assert kept["prediction"] == [answer["label"] for answer in said]
    assert np.mean(kept["loss"]) == pytest.approx(loss, abs=1e-5)


def test_texts_of_one_window_are_learned_as_without_windows(
    models: Any, toys: Any, tokenizer: Any, tmp_path: Path
) -> None:
    rows = [row for row in toys.rows(80) if len(tokenizer(row["text"])["input_ids"]) <= LIMIT]
    data = {"train": rows[:24], "dev": rows[24:32]}
    assert len(rows) >= 32
    scores = []
    for name, more in (("with", LONG), ("without", {})):
        head = {"type": "classification", **more}
        scores.append(trained(models["bert"], head, data, tmp_path / name).final["dev"]["topic"])
    assert scores[0] == scores[1]


def test_what_stands_at_the_end_of_a_text_is_learned(models: Any, toys: Any, tmp_path: Path) -> None:
    data = {"train": long_rows(toys, 120, tail=1), "dev": long_rows(toys, 60, seed=1, tail=1)}
    accuracy = {}
    for name, more in (("with", {"window": {"stride": 2, "pool": "max"}}), ("without", {})):
        head = {"type": "classification", **more}
        stage = {"max_steps": 60, "learning_rate": 3e-3, "max_rows_per_batch": 32}
        accuracy[name] = trained(models["bert"], head, data, tmp_path / name, **stage).final["dev"]["topic"]["accuracy"]
    assert accuracy["with"] > accuracy["without"] + 0.1


@pytest.mark.parametrize(
    ("head", "metric"),
    [({"type": "multilabel", "label": "labels"}, "f1_micro"), ({"type": "regression", "label": "score"}, "spearman")],
)
def test_other_heads_read_windows(head: dict[str, Any], metric: str, models: Any, toys: Any, tmp_path: Path) -> None:
    rows = {"train": long_rows(toys, 24), "dev": long_rows(toys, 12, seed=1)}
    data = {k: [{**row, "labels": [row["label"]]} for row in v] for k, v in rows.items()}
    result = trained(models["bert"], {**head, **LONG}, data, tmp_path / "run")
    run = open_run(tmp_path / "run", Catalogue.discover())
    assert len(predict(run, "topic", data["dev"])) == 12
    assert evaluate(run, "topic", data["dev"])[metric] == pytest.approx(result.final["dev"]["topic"][metric])


def test_the_second_text_of_a_pair_is_divided_and_the_first_stands_in_each_window(tokenizer: Any) -> None:
    firsts, seconds = ["a cat", "the dog and the cat " * 4, ""], ["the cat saw the dog " * 8, "the dog " * 9, "a cat"]
    found = windows.encode([firsts, seconds], tokenizer, LIMIT, windows.Window(stride=1))
    assert max(map(len, found.sequences)) == LIMIT and found.units == found.rows
    for row, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        begin = tokenizer(first, add_special_tokens=False)["input_ids"][
            :5
        ]  # half of what is left by [CLS], [SEP], [SEP]
        inner = []
        for sequence, of in zip(found.sequences, found.rows, strict=True):
            if of == row:
                assert sequence[1 : len(begin) + 1] == begin
                inner.append(sequence[len(begin) + 2 : -1])
        whole = inner[0] + [token for part in inner[1:] for token in part[1:]]
        assert whole == tokenizer(second, add_special_tokens=False)["input_ids"]
        assert ("its first text has more than the 5 tokens" in found.notes.get(row, "")) == (row == 1)


def test_a_pair_is_learned_and_predicted_in_windows(models: Any, toys: Any, tmp_path: Path) -> None:
    rows = {"train": long_rows(toys, 24), "dev": long_rows(toys, 12, seed=1)}
    head = {"type": "classification", "text": ["other", "text"], "label": "fits", **LONG}
    result = trained(models["bert"], head, rows, tmp_path / "run")
    run = open_run(tmp_path / "run", Catalogue.discover())
    assert evaluate(run, "topic", rows["dev"])["loss"] == pytest.approx(result.final["dev"]["topic"]["loss"])
    cut = [{**row, "text": "the of and to in a is it " * 3} for row in rows["dev"]]
    one, other = (predict(run, "topic", some) for some in (rows["dev"], cut))
    assert any(a["probabilities"] != b["probabilities"] for a, b in zip(one, other, strict=True))


def test_a_word_is_read_where_its_poorer_side_has_most_context() -> None:
    places = [{0: (1, 0), 1: (3, 6), 2: (5, 10), 3: (7, 14)}, {2: (1, 12), 3: (3, 14), 4: (5, 18)}]
    assert windows.most_context(places, [9, 7]) == [{0: 1, 1: 3, 2: 5}, {3: 3, 4: 5}]
    assert windows.most_context([{0: (4, 0)}, {0: (4, 0)}], [9, 9]) == [{0: 4}, {}]


def test_tags_of_long_texts_are_those_of_the_windows_that_the_words_are_read_in(models: Any, tmp_path: Path) -> None:
    """By the plain class on windows that are made by hand: the tags, and the loss of all words."""
    rows = [{k: row[k] for k in ("words", "tags")} for row in token_classification(90, 0)]
    long = [{k: [x for row in rows[at : at + 3] for x in row[k]] for k in ("words", "tags")} for at in range(0, 90, 3)]
    data = {"train": long[:20], "dev": long[20:]}
    head = {"type": "token-classification", "window": {"stride": STRIDE}}
    found = trained(models["bert"], head, data, tmp_path / "run", learning_rate=3e-3, max_steps=30).final["dev"][
        "topic"
    ]
    run = open_run(tmp_path / "run", Catalogue.discover())
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "run/model/topic").eval()
    tokenizer, names = AutoTokenizer.from_pretrained(tmp_path / "run/model/topic"), plain.config.id2label
    said, losses, step = [], [], LIMIT - 2 - STRIDE
    for row in data["dev"]:
        pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in row["words"]]
        ids, firsts = [token for word in pieces for token in word], np.cumsum([0, *map(len, pieces[:-1])])
        begins = range(0, max(1, len(ids) - STRIDE), step)
        logits = []
        for begin in begins:
            part = [tokenizer.cls_token_id, *ids[begin : begin + LIMIT - 2], tokenizer.sep_token_id]
            with torch.no_grad():
                logits.append(plain(torch.tensor([part])).logits[0, 1:-1])
        tags = []
        for place, tag in zip(firsts, row["tags"], strict=True):
            inside = {at: min(place - b, b + len(logits[at]) - 1 - place) for at, b in enumerate(begins)}
            best = max((at for at, context in inside.items() if context >= 0), key=lambda at: inside[at])
            vector = logits[best][place - begins[best]].log_softmax(dim=0)
            tags.append(names[int(vector.argmax())])
            losses.append(-float(vector[plain.config.label2id[tag]]))
        said.append(tags)
    assert [answer["value"] for answer in predict(run, "topic", [{"words": r["words"]} for r in data["dev"]])] == said
    assert len({tag for tags in said for tag in tags}) > 1, "so that an answer can be another one"
    assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-5) and found["cut_words"] == 0
    kept = pq.read_table(tmp_path / "run/predictions/dev/topic.parquet").to_pydict()
    assert len(kept["loss"]) == 10 and sum(kept["loss"]) == pytest.approx(sum(losses), rel=1e-4)
    truth = [tag for row in data["dev"] for tag in row["tags"]]
    right = [a == b for a, b in zip(truth, [tag for tags in said for tag in tags], strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(right))


@pytest.fixture(scope="module")
def exported(models: Any, toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose three tasks read windows: of a text, of a pair, and of tagged words."""
    folder = tmp_path_factory.mktemp("windows")
    tagged = token_classification(24, 0)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long_rows(toys, 60)))
    (folder / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tagged))
    rows = {"data": str(folder / "rows.jsonl"), "max_length": LIMIT}
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {
            "topic": {"head": {"type": "classification", **LONG}, **rows},
            "score": {
                "head": {"type": "regression", "label": "score", "window": {"stride": STRIDE, "pool": "max"}},
                **rows,
            },
            "pair": {"head": {"type": "classification", "text": ["text", "other"], "label": "fits", **LONG}, **rows},
            "ner": {"head": {"type": "token-classification", **LONG}, "data": str(folder / "tags.jsonl")},
        },
        "stages": [{"max_steps": 20, "learning_rate": 3e-3, "head_warmup_steps": 0}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_graph_reads_windows_by_the_lines_of_its_readme(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    found = export_run(exported, "onnx", tmp_path / "out", Catalogue.discover(), tasks=["topic", "score"])
    assert not found.beyond
    for verdict in found.tasks.values():
        assert verdict.rows == 6 and verdict.other_answers == 0 and verdict.largest_difference < 1e-4
    text = (tmp_path / "out/README.md").read_text().replace('Path(".")', f"Path({str(tmp_path / 'out')!r})")
    texts = ["the of and to in a is it " * 3 + "the striker saw the referee", "the bank"]
    run, left = open_run(exported, Catalogue.discover()), dict[str, Any]()
    for heading, code in re.findall(r"^(?:## `(\S+)`\n\n)?```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        code = code.replace('["A first text.", "A second text."]', repr(texts))
        exec(compile(code, "README.md", "exec"), left)  # noqa: S102 (they are what is tested)
        if not heading:
            continue
        wanted = predict(run, heading, [{"text": text} for text in texts])
        if heading == "topic":
            assert left["labels"] == [answer["label"] for answer in wanted]
            probabilities = [list(answer["probabilities"].values()) for answer in wanted]
            np.testing.assert_allclose(left["probabilities"], probabilities, atol=2e-5)
        else:
            np.testing.assert_allclose(left["values"].squeeze(), [answer["value"] for answer in wanted], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "task", "what"),
    [
        ("hf", "topic", "--to hf does not hold (of one text, --to onnx does)"),
        ("sentence-transformers", "topic", "--to sentence-transformers does not hold"),
        ("onnx", "pair", "--to onnx does not hold of pairs of texts or tagged words"),
        ("onnx", "ner", "--to onnx does not hold of pairs of texts or tagged words"),
    ],
)
def test_windows_that_cannot_be_exported_are_refused(
    to: str, task: str, what: str, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(f"task '{task}' reads long texts in windows, which {what}")):
        export_run(exported, to, tmp_path / "out", Catalogue.discover(), tasks=[task])
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "Of a text of more than 12 tokens, these lines read the beginning; `hft predict` reads it in windows" in card
    assert "are cut, but read in chunks by topic, score, pair, ner." in card
