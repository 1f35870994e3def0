"""Which choices exclude one another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hft_core.acceleration.decide import CONFLICTS, Fact, _Facts
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.strategy import Strategy


class Routed(Strategy):
    routes_rows = True  # type: ignore[assignment]


def facts_of(*, strategy: Strategy | None = None, packs: bool = False, world: int = 1, **stage: Any) -> _Facts:
    backbone = SimpleNamespace(packs=packs, layers=["a layer"])
    model: Any = SimpleNamespace(
        strategy=strategy or Strategy(), backbone=backbone, trunk=object(), trunk_parameters=lambda: ["a parameter"]
    )
    machine: Any = SimpleNamespace(
        group=SimpleNamespace(world_size=world),
        sharded=False,
        name=f"{world} processes",
    )
    of_stage: Any = SimpleNamespace(**{"gradient_checkpointing": False, **stage})
    return _Facts.of(model, machine, of_stage)


def test_a_plain_stage_excludes_nothing() -> None:
    assert not any(facts_of().obstacle(choice) for choice in CONFLICTS)


@pytest.mark.parametrize(
    ("stage", "excluded"),
    [
        ({"gradient_checkpointing": True}, {"compiled", "one_pass"}),
        ({"packs": True}, {"compiled", "one_pass"}),
        ({"strategy": Routed()}, {"compiled", "one_pass"}),
        ({"world": 2}, {"store", "compiled"}),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_stage_excludes_what_does_not_go_with_it(stage: dict[str, Any], excluded: set[str]) -> None:
    assert {choice for choice in CONFLICTS if facts_of(**stage).obstacle(choice)} == excluded


def test_choices_exclude_later_ones() -> None:
    facts = facts_of()
    facts.note(Fact.CACHED_ACTIVATIONS, True)
    assert facts.obstacle("compiled") == "activations of frozen layers are cached: set cache_activations: no"
    facts.note(Fact.COMPILED, True)
    excluded = {choice for choice in CONFLICTS if facts.obstacle(choice)}
    assert excluded == {"compiled", "one_pass", "fast_kernels"}


def test_reasons_name_what_stands_against_a_choice() -> None:
    assert facts_of(strategy=Routed()).obstacle("compiled").startswith("Routed routes rows by their task")


def test_every_choice_is_a_field_of_the_plan() -> None:
    assert all(hasattr(ExecutionPlan(), choice) for choice in CONFLICTS)
    assert not any(getattr(PLAIN, choice) for choice in CONFLICTS)
