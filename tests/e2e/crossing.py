"""Every head with every strategy: the recipe that puts the two together, and what validation says to it.

Used by `test_crossing.py`, which runs what is not refused, and by `docs/reference/combinations_page.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from hft_core import Catalogue, UsageError
from hft_core.plugins.entries import Entry, State
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.runs.validate import inspect
from hft_core.testing import Subject, trunks
from hft_core.testing.toy_task import rows_of

COMPANION = "classification"
"""The head of the second task, so that a combiner has something to combine."""
STEPS = 3
ROWS = {"train": 12, "dev": 4}
TRUNKS = tuple(trunks.FAMILIES)


@dataclass(frozen=True)
class Cell:
    """A head and a strategy on the first tiny trunk that takes both."""

    trunk: str = ""
    """Empty: none takes both."""
    after: str = ""
    """The strategy of a stage that has to come before."""
    reasons: tuple[tuple[str, str], ...] = ()
    """Trunk and reason, of those that refused."""


@cache
def catalogue() -> Catalogue:
    return Catalogue.discover()


def names(seam: str) -> list[str]:
    """The usable built-in plugins of a seam."""
    found = [entry for entry in catalogue().seam(seam) if entry.provider.distribution == "hft-core"]
    return [entry.name for entry in found if entry.state is State.OK]


@cache
def rows(head: str) -> dict[str, list[dict[str, Any]]]:
    """Toy rows for a head, by split."""
    subject = Subject(catalogue().get("head", head), catalogue())
    return {split: rows_of(subject, count, seed) for seed, (split, count) in enumerate(ROWS.items())}


def host_data(head: str) -> dict[str, Any]:
    return {"one": rows(head), "two": rows(COMPANION)}


def resolved(head: str, strategy: str, combiner: str, trunk: str, after: str = "") -> Resolved:
    """The recipe of a cell: the head's task and the companion's, in one stage, after a stage of `after`. Without a
    strategy, every parameter trains."""
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 6,
        "head_warmup_steps": 0,
        "learning_rate": 0.01,
        "eval_strategy": "no",
    }
    stages = [{"strategy": chosen("strategy", name)} for name in (after, strategy) if name] or [{}]
    recipe = {
        "backbone": {"model": str(trunks.folder(trunk))},
        "tasks": {"one": {"head": chosen("head", head)}, "two": {"head": COMPANION}},
        "stages": [{**stage, **settings, "combiner": combiner} for stage in stages],
        "precision": "fp32",
    }
    return resolve(recipe_file.from_dict(recipe), catalogue())


def chosen(seam: str, name: str) -> dict[str, Any]:
    """A plugin with the options of its spec's example."""
    entry: Entry = catalogue().get(seam, name)
    assert entry.spec is not None
    return {"type": name, **entry.spec.example}


@cache
def refusal(head: str, strategy: str, trunk: str, after: str = "") -> str:
    """Why validation refuses the recipe; empty where it does not."""
    try:
        inspect(resolved(head, strategy, "sum", trunk, after), host_data=host_data(head))
    except UsageError as error:
        return str(error).replace(str(trunks.folder(trunk)), trunk)
    return ""


@cache
def cell(head: str, strategy: str) -> Cell:
    """What validation says to a head and a strategy."""
    before: tuple[str, ...] = getattr(catalogue().get("strategy", strategy).spec, "continues", ())
    reasons = []
    for trunk in TRUNKS:
        for after in ("", *before):
            reason = refusal(head, strategy, trunk, after)
            if not reason:
                return Cell(trunk, after, tuple(reasons))
        reasons.append((trunk, reason))
    return Cell(reasons=tuple(reasons))
