"""Hold what a run was begun with as digests, and where it is computed, and compare both when it is resumed; light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

WEIGHTS, HEAD, FRESH_HEAD, CONFIGURATION, TOKENIZER, ROWS, FILE, CODE = (
    "the weights of the base model",
    "the base model's head of task",
    "the first weights of task",
    "the configuration of the base model",
    "the tokenizer",
    "the rows of task",
    "the file or folder in",
    "the code of",
)
"""What a digest is of, for messages."""
PLUGIN_FILE = "the file of"
"""Begins the name of the code of a plugin that is a single file."""
LOADERS = ("transformers", "tokenizers")
"""Distributions whose other versions write another configuration or tokenizer for the same model."""


@dataclass(frozen=True, kw_only=True)
class Pins:
    """Digests of everything that a run was begun with; in its checkpoints and in `results.json`."""

    recipe: str = ""
    """SHA-256 of the recipe with all defaults written out."""
    model: str = ""
    """Folder, file or hub id of the base model."""
    commit: str = ""
    """The commit that a hub id and its revision were resolved to."""
    weights: str = ""
    """Of the trunk's parameters and buffers before training."""
    heads: dict[str, str] = field(default_factory=dict)
    """Of the head weights that came with the base model, by task."""
    fresh_heads: dict[str, str] = field(default_factory=dict)
    """Of the other heads' weights before training, by task. They are drawn, or partly taken from the base model (a
    pooler); numbers drawn with other instructions may differ in the last bit."""
    configuration: str = ""
    tokenizer: str = ""
    """Empty for a tokenizer that cannot be saved."""
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of all tokenized rows with their further inputs and targets, by split and task."""
    data_commits: dict[str, str] = field(default_factory=dict)
    """The commit that each data set of the hub was read at, by its address; its rows are compared, not this."""
    files: dict[str, str] = field(default_factory=dict)
    """Of the files and folders that options of plugins name (a teacher), by option and path."""
    code: dict[str, str] = field(default_factory=dict)
    """Of each distribution, module or single file that plugins were taken from."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of hft, of the libraries that compute, and of the distributions of plugins."""
    accepted: tuple[str, ...] = ()
    """What had changed when the run was resumed, and was accepted."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return {**asdict(self), "accepted": list(self.accepted)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pins:
        """Convert back what `to_json` returned, after it was written as JSON. Raises `TypeError` or `KeyError` for
        another shape."""
        return cls(**{**value, "accepted": tuple(value["accepted"])})

    def digests(self) -> dict[str, str]:
        """Return every digest by what it is of, but that of the recipe."""
        return {
            WEIGHTS: self.weights,
            CONFIGURATION: self.configuration,
            TOKENIZER: self.tokenizer,
            **{f"{HEAD} '{task}'": digest for task, digest in self.heads.items()},
            **{f"{FRESH_HEAD} '{task}'": digest for task, digest in self.fresh_heads.items()},
            **{f"{ROWS} '{task}', {split}": d for split, tasks in self.rows.items() for task, d in tasks.items()},
            **{f"{FILE} {name}": digest for name, digest in self.files.items()},
            **{f"{CODE} {name}": digest for name, digest in self.code.items()},
        }

    def changes(self, now: Pins, *, same_place: bool) -> list[str]:
        """Return what is not in `now` as it is here, by name: digests that differ or are in one of the two only.

        Code of another version, and what other versions of a library write differently, is left to `version_changes`;
        fresh heads are compared only in the same place.
        """
        other = {name for name in {*self.versions, *now.versions} if self.versions.get(name) != now.versions.get(name)}
        excused = {f"{CODE} {name}" for name in other}
        if other.intersection(LOADERS):
            excused |= {CONFIGURATION, TOKENIZER}
        if other or not same_place:
            excused |= {f"{FRESH_HEAD} '{task}'" for task in {*self.fresh_heads, *now.fresh_heads}}
        before, after = self.digests(), now.digests()
        return [name for name in {**before, **after} if before.get(name) != after.get(name) and name not in excused]

    def moved_data(self, now: Pins) -> list[str]:
        """Return each data set of the hub whose address stands for another commit now, with both."""
        after = now.data_commits
        return [
            f"{name} was the commit {commit[:12]} and is {after[name][:12]}"
            for name, commit in self.data_commits.items()
            if after.get(name, commit) != commit
        ]

    def opened_with(self, now: Pins, *, own_base: bool) -> list[str]:
        """Return what of the base model and the code of a finished run is not in `now` as it was trained with.

        `own_base`: the run is opened with a base model in its own folder. Single files are compared by their plugins.
        """
        named = {*now.digests()} if not own_base else {f"{CODE} {name}" for name in now.code}
        changed = self.changes(now, same_place=False)
        return [name for name in changed if name in named and not name.startswith(f"{CODE} {PLUGIN_FILE}")]

    def version_changes(self, now: Pins) -> list[str]:
        """Return `torch 2.9.0, now 2.10.0` for each distribution of another version."""
        before, after = self.versions, now.versions
        return [
            f"{name} {before.get(name, 'missing')}, now {after.get(name, 'missing')}"
            for name in {**before, **after}
            if before.get(name) != after.get(name)
        ]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is computed: all that decides how its sums are rounded."""

    processes: str
    """Number and kind of the processes, as in `Machine.name`."""
    device: str
    """The name of the processor or the GPU."""
    instructions: str
    """The instruction set that torch's CPU kernels use, and limits that the environment sets."""
    threads: int
    """Threads of one operation on the CPU."""
    products: str = ""
    """torch's precision of float32 matrix products (`highest`, `high`, `medium`)."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return asdict(self)

    def differences(self, now: Place) -> tuple[str, str]:
        """Return what the two places do not have in common, in words: of this one, and of `now`."""
        names = [f.name for f in fields(self) if getattr(self, f.name) != getattr(now, f.name)]
        return self._text(names), now._text(names)

    def _text(self, names: list[str]) -> str:
        told = {
            "processes": self.processes,
            "device": self.device,
            "instructions": f"instructions {self.instructions}",
            "threads": f"{self.threads} thread{'s' * (self.threads != 1)}",
            "products": f"float32 products '{self.products}'",
        }
        return ", ".join(told[name] for name in names)
