"""Analyze a finished run: gradient conflicts between its tasks, and what a step on one does to the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hft_core.analysis import affinity
from hft_core.analysis.conflicts import Conflicts, Pair, layer_groups
from hft_core.analysis.draws import draw_batches, gradients_of, loss_of
from hft_core.batching.batch import Batch
from hft_core.device.machine import Machine
from hft_core.errors import UsageError, did_you_mean
from hft_core.model import gradient_checkpointing
from hft_core.model.hybrid import HybridModel
from hft_core.predict.prediction import machine_of
from hft_core.predict.saved_run import SavedRun
from hft_core.runs import assembly
from hft_core.runtime import signals
from hft_core.runtime.run_lock import exclusive


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was measured on training rows, with the weights of a finished run and without dropout."""

    tasks: tuple[str, ...]
    draws: int
    rows: int
    """Rows of each task in a draw."""
    step: float
    """The root mean square of a step's changes (`affinity`)."""
    pairs: tuple[Pair, ...]
    affinity: tuple[tuple[float, ...], ...]
    """`[stepped, other]`: by how much the other task's loss falls after a step, as a share of it; mean over draws."""
    groups: tuple[tuple[str, ...], ...] | None
    """Tasks to train together, by affinity; None for more than `affinity.MOST_TASKS`."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return asdict(self)


@exclusive
def analyze(saved: SavedRun, tasks: Sequence[str] | None = None, *, rows: int = 16, draws: int = 16) -> Analysis:
    """Measure how the tasks of the run's last stage act on one another's shared parameters.

    Raises `UsageError` where there are no two tasks, or they share nothing that trains, and `DataError` when the files
    of the recipe are gone.
    """
    stage = saved.resolved.stages[-1]
    chosen = tuple(tasks or stage.stage.tasks)
    _check(saved, chosen, stage.stage.tasks)
    model, seed = saved.model, saved.resolved.recipe.seed
    _make_trainable(saved)
    groups = layer_groups(model)
    if not groups:
        name = stage.strategy.entry.name if stage.strategy is not None else "full"
        raise UsageError(f"the tasks share nothing that strategy '{name}' trains: no gradients to compare")
    machine = machine_of(saved)
    heads = {task: model.head(task) for task in chosen}
    loaded = assembly.load_rows(saved.resolved, heads, {})
    examples = assembly.tokenize(saved.resolved, loaded, model)["train"]
    step = affinity.STEP * (stage.stage.learning_rate or model.strategy.learning_rate)
    conflicts, ahead = Conflicts(chosen, groups), torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    parameters = [parameter for group in groups.values() for parameter in group]
    with model.evaluating(), torch.enable_grad(), gradient_checkpointing.switched_off(model):
        for batches in draw_batches(model, examples, machine, rows=rows, draws=draws, seed=seed):
            signals.check()
            gradients, losses = _gradients(model, parameters, batches, machine)
            conflicts.add(gradients)
            ahead += torch.tensor(
                affinity.look_ahead(model, parameters, batches, gradients, losses, machine, length=step),
                dtype=torch.float64,
            )
    means = tuple(tuple(row) for row in (ahead / draws).tolist())
    few = len(chosen) <= affinity.MOST_TASKS
    return Analysis(
        tasks=chosen,
        draws=draws,
        rows=rows,
        step=step,
        pairs=tuple(conflicts.pairs()),
        affinity=means,
        groups=tuple(map(tuple, affinity.best_groups(chosen, means))) if few else None,
    )


def _check(saved: SavedRun, chosen: Sequence[str], of_stage: Sequence[str]) -> None:
    for task in chosen:
        if task not in of_stage:
            raise UsageError(f"the run's last stage trains no task '{task}'.{did_you_mean(task, of_stage)}")
    if len(set(chosen)) < 2:
        raise UsageError(f"expected two or more tasks that were trained together, found {', '.join(chosen)}")


def _make_trainable(saved: SavedRun) -> None:
    """Let the parameters require gradients that the last stage's strategy trains: a run is opened without."""
    for stage in saved.resolved.last_strategies():
        strategy = assembly.strategy_of(stage)
        if not strategy.adapter:  # that of an adapter was applied when the run was opened
            saved.model.apply_strategy(strategy, stage.stage.tasks)


def _gradients(
    model: HybridModel, parameters: Sequence[torch.nn.Parameter], batches: Mapping[str, Batch], machine: Machine
) -> tuple[list[list[torch.Tensor]], list[float]]:
    """Return the tasks' gradients by parameter, and their losses."""
    gradients, losses = [], []
    for task, batch in batches.items():
        loss = loss_of(model, task, batch, machine)
        if not loss.requires_grad:
            raise UsageError(f"task '{task}' depends on nothing that the last stage trains")
        gradients.append(gradients_of(loss, parameters))
        losses.append(float(loss.detach()))
    return gradients, losses
