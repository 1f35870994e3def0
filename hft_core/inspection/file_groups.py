"""Tell which data files are one task, and which of them are its train, dev and test split, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hft_core.data.readers.annotations.recognize import export_format
from hft_core.data.readers.dataset import is_dataset
from hft_core.recipe.names import in_form

SPLITS = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "valid", "validation", "val", "eval"),
    "test": ("test", "testing", "tst", "heldout"),
}
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
SAYS_NOTHING = frozenset(
    {"", "data", "dataset", "all", "full", "corpus", "file", "input", "output", "rows", "examples"}
)
"""Names of files that are none of a task."""


@dataclass(frozen=True)
class FileGroup:
    """The files of one task."""

    name: str
    """What their names have in common, in the form of a task's name; empty where that says nothing."""
    splits: dict[str, list[str]]
    """Paths by `train`, `dev` and `test`, or all of them as `files`."""

    @cached_property
    def format(self) -> str | None:
        """The format of an annotation tool's export; None for other files, whose names tell it."""
        return export_format(self.first[0])

    @property
    def first(self) -> list[str]:
        """The files that the training rows come from."""
        return self.splits.get("files") or self.splits["train"]


def grouped(paths: Sequence[str]) -> list[FileGroup]:
    """Group files: `x-train.csv` and `x-test.csv` are splits of a task, `x-1.csv` and `x-2.csv` parts of one."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in paths:
        stem, suffixes = _stem(path)
        words = [word for word in re.split(r"[-_.\s]+", stem) if word]
        split = next((_SPLIT_OF[word.lower()] for word in words if word.lower() in _SPLIT_OF), "files")
        rest = [w for w in words if w.lower() not in _SPLIT_OF and not (len(words) > 1 and w.isdigit()) and w != "of"]
        groups.setdefault(("-".join(rest), suffixes), {}).setdefault(split, []).append(path)
    return [FileGroup(_name(key), _divided(splits)) for (key, _), splits in groups.items()]


def _divided(splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the splits if train is one of several; otherwise all files together."""
    if "train" in splits and len(splits) > 1 and "files" not in splits:
        return splits
    return {"files": [path for paths in splits.values() for path in paths]}


def _stem(path: str) -> tuple[str, str]:
    file = Path(path)
    if file.is_dir():
        return file.resolve().name, "/"
    if is_dataset(path):  # hf://OWNER/NAME:SPLIT, FOLDER:SPLIT
        name = path.split("/", 3)[-1] if "://" in path else file.name
        return re.sub(r"[:/@]", "-", name), "/"
    suffixes = "".join(Path(file.name.removesuffix(".gz")).suffixes[-1:])
    return file.name.removesuffix(".gz").removesuffix(suffixes), suffixes.lower()


def _name(stem: str) -> str:
    name = task_name(stem)
    return "" if name.lower() in SAYS_NOTHING else name


def task_name(text: str) -> str:
    """Return a text in the form of a task's name; empty where nothing of it is left."""
    name = re.sub(r"[^\w-]+", "-", text).strip("-_")[:40].strip("-_")
    try:
        return in_form(name)
    except ValueError:
        return ""
