from __future__ import annotations

from typing import Any

import pytest

from hft_core import Catalogue
from hft_core.cli.data_report import print_data
from hft_core.recipe.recipe_file import from_dict
from hft_core.recipe.resolve import resolve
from hft_core.runs.data_summary import TaskData, TokenLengths
from hft_core.runs.validate import inspect


def understood(model: Any, task: dict[str, Any], rows: Any) -> TaskData:
    """Return what `hft validate` understands of the rows of a task."""
    recipe = {"backbone": str(model), "tasks": {"t": task}, "stages": {"max_steps": 1}}
    resolved = resolve(from_dict(recipe), Catalogue.discover())
    return inspect(resolved, host_data={"t": rows}).data["t"]


def split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"train": rows, "dev": rows[:2]}


def test_labels_are_counted_in_the_order_of_their_ids(models: Any) -> None:
    rows = [{"text": "the cat saw", "label": label} for label in ("b", "a", "b", 10, 9)]
    data = understood(models["bert"], {"head": "classification", "labels": ["10", "9", "b", "a", "c"]}, split(rows))
    assert data.head == "classification"
    assert data.labels == {
        "10": {"train": 1, "dev": 0},
        "9": {"train": 1, "dev": 0},
        "b": {"train": 2, "dev": 1},
        "a": {"train": 1, "dev": 1},
        "c": {"train": 0, "dev": 0},
    }
    assert data.columns == {
        "text": "a non-empty text",
        "label": "a label (text, a whole number or true/false) (target)",
    }
    assert data.facts == {"pooling": "family"}


def test_the_share_of_texts_that_are_cut_is_told(models: Any) -> None:
    rows = [{"text": "the cat " * (1 + 9 * (i % 2)), "label": "ab"[i % 2]} for i in range(8)]
    task = {"head": "classification", "max_length": 8}
    assert understood(models["bert"], task, split(rows)).lengths == {
        "train": TokenLengths(shortest=4, median=6, longest=8, cut=0.5),
        "dev": TokenLengths(shortest=4, median=6, longest=8, cut=0.5),
    }
    divided = understood(models["bert"], {"head": "mlm", "max_length": 8}, split(rows))
    assert divided.lengths["train"].longest == 8
    assert divided.lengths["train"].cut == 0
    assert divided.labels == {}


def test_the_scheme_and_the_types_of_tags_are_told(models: Any) -> None:
    rows = [{"words": "a b c", "tags": tags} for tags in ("B_x I_x O", "O O B_y", "O O O")]
    data = understood(models["bert"], {"head": "token-classification"}, split(rows))
    assert data.facts["read_as"] == "bio"
    assert data.facts["notation"] == {"joiner": "_", "suffix": False, "lower": False}
    assert data.labels == {"O": {"train": 3, "dev": 2}, "x": {"train": 1, "dev": 1}, "y": {"train": 1, "dev": 1}}


@pytest.mark.parametrize("label", [[[0, 1], [1, 1]], [["b"], ["a", "b"]]])
def test_the_labels_of_rows_with_several_are_counted(label: list[Any], models: Any) -> None:
    rows = [{"text": "the cat", "label": each} for each in label * 2]
    data = understood(models["bert"], {"head": "multilabel", "labels": ["a", "b"]}, split(rows))
    assert data.labels == {"a": {"train": 2, "dev": 1}, "b": {"train": 4, "dev": 2}}


def test_what_is_printed_is_short_and_has_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["yes\u200b", "x" * 500, "\x1b[31mred", *(f"rare {i}" for i in range(40))]
    labels = {name: {"train": 50 - i, "dev": 1} for i, name in enumerate(names)}
    lengths = {"train": TokenLengths(shortest=3, median=9, longest=64, cut=0.125)}
    data = TaskData(
        head="classification",
        columns={"text": "a non-empty text"},
        facts={"scheme": "bio"},
        labels=labels,
        max_length=64,
        lengths=lengths,
    )
    print_data({"t": data})
    printed = capsys.readouterr().out
    assert "task 't' (classification) reads 'text': a non-empty text" in printed
    assert "learned: scheme: bio" in printed
    assert "tokens of train: 3 to 64, median 9, 12.5% of the texts cut at 64" in printed
    assert "yes\\u200b" in printed
    assert "\x1b" not in printed
    assert "and 23 more labels with fewer rows" in printed
    assert max(map(len, printed.splitlines())) < 100
