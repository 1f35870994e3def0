"""A stage that is predicted not to fit is warned of, and what is advised makes it fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hft_core.memory import forecast
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs.validate import ValidationReport, inspect


@pytest.fixture
def validated(models: Any, toys: ModuleType) -> Callable[..., ValidationReport]:
    def of(**stage: Any) -> ValidationReport:
        recipe = {
            "backbone": str(models["bert"]),
            "tasks": {"kind": {"head": "classification"}},
            "stages": [{"strategy": "full", "max_steps": 2, "train_batch_size": 32, **stage}],
            "precision": "fp32",
        }
        resolved = resolve(recipe_file.from_dict(recipe), Catalogue.discover())
        return inspect(resolved, host_data={"kind": {"train": toys.rows(64), "dev": toys.rows(8, seed=1)}})

    return of


def test_a_stage_that_does_not_fit_is_warned_of_with_a_change_that_makes_it_fit(
    validated: Callable[..., ValidationReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast.Held, "now", lambda *_: forecast.Held(0, 1 << 40))
    report = validated()
    (stage,) = report.stages
    assert stage.memory.traced and stage.memory.rows == 32 and not report.warnings
    assert stage.memory.optimizer == 8 * (stage.trainable + stage.heads)
    room = stage.memory.total - stage.memory.activations // 4
    monkeypatch.setattr(forecast.Held, "now", lambda *_: forecast.Held(0, room))
    (said,) = validated().warnings
    (tokens,) = re.findall(r": set max_tokens_per_batch: (\d+) ", said)
    changed = validated(max_tokens_per_batch=int(tokens))
    assert not changed.warnings and changed.stages[0].memory.total <= room


def test_combiners_that_get_the_gradients_of_tasks_count_them(
    validated: Callable[..., ValidationReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast.Held, "now", lambda *_: forecast.Held(0, None))
    plain, exact = (validated(combiner=name).stages[0] for name in ("sum", "upgrad"))
    assert exact.memory.gradients - plain.memory.gradients == 4 * exact.trainable
