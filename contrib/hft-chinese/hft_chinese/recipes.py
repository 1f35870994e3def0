"""`clue-tnews`, `clue-afqmc`, `clue-cmnli`, `clue-cluener`: one encoder fine-tuned on one CLUE task.

The files are yours: CLUE's are not ours to pass on. Their rows are checked and written anew under the run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from hft_chinese.clue import Format, read
from hft_chinese.spans import Overlaps, Spans
from hft_core import options
from hft_core.recipe import existing

TOKENS = 128
"""Longest sequence; longer texts are cut."""


class Options(options.Options):
    """Data and model of the recipe."""

    data: str = Field(
        min_length=1, description="folder of the task's files as CLUE publishes them: train.json, dev.json, …"
    )
    model: str = Field(min_length=1, description="a Chinese encoder: a local folder or a hub id")


class CluenerOptions(Options):
    """The same, and how spans that share characters are handled."""

    overlaps: Overlaps = Field(default="refuse", description="of spans that share characters: an error, or the longest")


def tnews(options: Options, *, folder: Path) -> dict[str, Any]:
    """The topic's Chinese name from the headline."""
    return _recipe("tnews", "tnews", options, folder, _classification("sentence"))


def afqmc(options: Options, *, folder: Path) -> dict[str, Any]:
    """`相同` or `不同` from both questions."""
    return _recipe("afqmc", "afqmc", options, folder, _classification(["sentence1", "sentence2"]))


def cmnli(options: Options, *, folder: Path) -> dict[str, Any]:
    """`蕴含`, `中立` or `矛盾` from both sentences."""
    return _recipe("cmnli", "cmnli", options, folder, _classification(["sentence1", "sentence2"]))


def cluener(options: CluenerOptions, *, folder: Path) -> dict[str, Any]:
    """A tag for each character."""
    head = {"head": "token-classification", "scheme": "bio"}
    return _recipe("cluener", Spans(options.overlaps), options, folder, head)


def _classification(text: str | list[str]) -> dict[str, Any]:
    return {"head": "classification", "text": text, "label": "label_zh"}


def _recipe(name: str, form: str | Format, options: Options, folder: Path, head: Mapping[str, Any]) -> dict[str, Any]:
    """Write the task's rows under `folder`, and return the recipe that learns from them."""
    files = {
        split: _written(folder / f"{name}-{split}.jsonl", rows) for split, rows in read(form, options.data).items()
    }
    return {
        "backbone": {"type": "hf-encoder", "model": existing(options.model, Path.cwd())},
        "tasks": {name: {**head, "data": files, "max_length": TOKENS}},
        "stages": [{"name": "finetune", "tasks": [name], "strategy": "full", "epochs": 3, "learning_rate": 3e-5}],
    }


def _written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return str(path.resolve())
