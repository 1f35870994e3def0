"""What is said of a stage that does not fit: the first change that makes it fit, or the one that saves most."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hft_core.memory import advice
from hft_core.memory.advice import Change, describe, warning
from hft_core.memory.forecast import StageMemory

GIB = 2**30
MEMORY = StageMemory(
    weights=GIB,
    gradients=GIB // 2,
    optimizer=2 * GIB,
    activations=8 * GIB,
    rest=GIB // 4,
    tokens=4096,
    rows=32,
    traced=True,
)
BATCHER: Any = SimpleNamespace(stage=SimpleNamespace(name="finetune"))
PLAN: Any = None


def offered(monkeypatch: pytest.MonkeyPatch, *changes: Change) -> None:
    monkeypatch.setattr(advice, "_changes", lambda *_: iter(changes))


def test_the_parts_add_up_and_are_told_in_a_line() -> None:
    assert MEMORY.total == int(11.75 * GIB)
    assert describe(MEMORY, 20 * GIB) == (
        "about 12 GiB (weights 1.0, gradients 0.50, optimizer 2.0, activations 8.0, rest 0.25), of 20 GiB free"
    )


def test_a_stage_that_fits_or_whose_room_is_unknown_is_not_warned_of() -> None:
    assert warning(BATCHER, PLAN, MEMORY, 12 * GIB) == warning(BATCHER, PLAN, MEMORY, None) == ""


def test_the_first_change_that_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Change("a", 9 * GIB), Change("b", 4 * GIB), Change("c", 3 * GIB))
    assert warning(BATCHER, PLAN, MEMORY, 5 * GIB) == (
        "stage 'finetune' takes about 12 GiB of memory, and 5.0 GiB are free: b (about 4.0 GiB)"
    )


def test_where_none_fits_the_one_that_saves_most_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Change("a", 9 * GIB), Change("b", 8 * GIB), Change("c", 13 * GIB))
    assert warning(BATCHER, PLAN, MEMORY, GIB).endswith(": b (about 8.0 GiB, still too much)")


def test_where_none_helps_a_smaller_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, Change("c", 13 * GIB))
    assert warning(BATCHER, PLAN, MEMORY, GIB).endswith("take a smaller model")
