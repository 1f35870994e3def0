"""How many tokens evaluation takes at once, and that scores do not depend on it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hft_core.batching import buckets
from hft_core.batching.batch import Batch
from hft_core.batching.collate import Collator
from hft_core.runs.stages import Stages
from hft_core.training import evaluation

TASKS: dict[str, Any] = {
    "topic": {"head": "classification"},
    "language": {"head": "mlm"},
    "alike": {"head": {"type": "contrastive", "text": ["text", "other"]}},
}


def evaluated(
    task: str,
    limit: int,
    models: Any,
    toys: ModuleType,
    prepare: Callable[..., Stages],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[int], evaluation.TaskEvaluation]:
    """The tokens of each batch, and what the model says, where a CPU takes `limit` at once."""
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {task: TASKS[task]},
        "stages": [{"max_steps": 1}],
        "precision": "fp32",
    }
    stages = prepare(recipe, {task: {"train": toys.rows(12), "dev": toys.rows(40, seed=1)}})
    sizes: list[int] = []
    make_batch = Collator._batch

    def seen(*args: Any) -> Batch:
        batch = make_batch(*args)
        sizes.append(batch.inputs["input_ids"].numel())
        return batch

    monkeypatch.setattr(buckets, "CPU_TOKENS", limit)
    with monkeypatch.context() as patched:
        patched.setattr(Collator, "_batch", seen)
        said = evaluation.evaluate_task(
            stages.material.model, task, stages.material.examples["dev"][task], stages.machine, seed=0
        )
    return sizes, said


@pytest.mark.parametrize("task", ["topic", "language"])
def test_on_a_cpu_batches_are_small_and_say_the_same(
    task: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, said = evaluated(task, 64, models, toys, prepare, monkeypatch)
    many, wanted = evaluated(task, 100_000, models, toys, prepare, monkeypatch)
    assert max(few) <= 64 < max(many)
    assert len(few) > 1 == len(many)
    assert sum(few) < sum(many), "less of it is padding"
    np.testing.assert_allclose(said.predictions, wanted.predictions, rtol=1e-5)
    assert said.loss == pytest.approx(wanted.loss, rel=1e-5)


def test_a_loss_that_compares_the_rows_of_a_batch_has_as_many_on_every_machine(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, said = evaluated("alike", 64, models, toys, prepare, monkeypatch)
    many, wanted = evaluated("alike", 100_000, models, toys, prepare, monkeypatch)
    assert few == many
    assert np.isfinite(said.loss)
    assert said.loss == wanted.loss
