"""Validate a recipe without training: count rows, parameters and steps, and predict memory."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass

from hft_core.acceleration import fast_paths, frozen_prefix
from hft_core.device.machine import Machine, find_machine
from hft_core.memory import advice
from hft_core.memory.forecast import Held, StageMemory, forecast
from hft_core.model import frozen_weights
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.recipe.batch_size import rows_per_pass, rows_per_step, with_batch_sizes
from hft_core.recipe.resolve import Resolved
from hft_core.recipe.schema import Recipe
from hft_core.recipe.stage import Stage
from hft_core.recipe.trackers import trackers_of
from hft_core.runs import assembly
from hft_core.runs.assembly import BuiltRun, HostData
from hft_core.runs.data_summary import TaskData, data_of
from hft_core.runs.stage_parts import begin, plan_of, selection_of, streams_of
from hft_core.runs.stage_report import plugin_name
from hft_core.runs.trials import try_run
from hft_core.runtime.run_lock import exclusive
from hft_core.training.learning_rates import learning_rates
from hft_core.training.micro_batches import Batcher


@dataclass(frozen=True, kw_only=True)
class StageForecast:
    """What a stage would train and need."""

    name: str
    tasks: tuple[str, ...]
    strategy: str
    combiner: str
    steps: int
    train_batch_size: int
    """Rows in a step, over all processes."""
    rows_per_pass: int
    """Rows that one process computes at once, at most."""
    learning_rate: float
    """Of the trunk."""
    head_learning_rate: float
    trainable: int
    """Number of trunk parameters that are updated."""
    trunk: int
    heads: int
    memory: StageMemory
    """What a process is predicted to hold at most."""
    room: int | None
    """The bytes that it may hold, what it holds already included; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class StreamedFiles:
    """The training files of a task that streams."""

    files: int
    """All of them were opened, up to their first row."""
    bytes: int
    checked_rows: int
    """How many of the first rows were checked; the others are when they are read."""


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What a valid recipe would do."""

    recipe: Recipe
    """With all defaults filled in."""
    rows: dict[str, dict[str, int]]
    """By task and split, without `train` for a task that streams."""
    examples: dict[str, dict[str, int]]
    """The same after tokenization, which may split a long text into several examples."""
    streams: dict[str, StreamedFiles]
    """By task that streams."""
    data: dict[str, TaskData]
    """How the data of each task was understood."""
    stages: tuple[StageForecast, ...]
    warnings: tuple[str, ...] = ()
    """What is odd about the rows, and what a trial of the strategies found (see `hft_core.trial`)."""


@exclusive
def inspect(
    resolved: Resolved, *, host_data: HostData | None = None, trust_remote_code: bool = False, processes: int = 1
) -> ValidationReport:
    """Load and check everything that the recipe names, and apply its strategies one after another.

    `processes`: how many would train. Raises what `hft_core.run` raises before training.
    """
    resolved = with_batch_sizes(resolved, processes)
    trackers_of(resolved)
    built = assembly.assemble(resolved, host_data=host_data or {}, trust_remote_code=trust_remote_code)
    _check_metrics(built)
    machine = find_machine(resolved.recipe.precision)
    findings, machine = try_run(built, machine, wanted=resolved.recipe.precision, kernels=True)
    stages, too_large = _stages(built, machine, processes)
    return ValidationReport(
        recipe=built.resolved.recipe,
        rows={task: _counts(built, task, splits) for task, splits in built.rows.items()},
        examples={
            task: _counts(built, task, {split: parts[task] for split, parts in built.examples.items() if task in parts})
            for task in built.rows
        },
        streams={
            task: StreamedFiles(
                files=len(corpus.files), bytes=corpus.bytes, checked_rows=len(built.rows[task]["train"])
            )
            for task, corpus in built.streams.items()
        },
        data=data_of(built),
        stages=stages,
        warnings=(*built.warnings, *findings.warnings, *findings.left_out, *too_large),
    )


def _check_metrics(built: BuiltRun) -> None:
    """Raise `RecipeError` when a stage names a metric that its task does not have."""
    naming = [each.stage for each in built.resolved.stages if each.stage.metric_for_best_model]
    if naming:
        machine = find_machine("fp32")
        built.model.to(machine.device)
        for stage in naming:
            selection_of(stage, built, machine)


def _counts(built: BuiltRun, task: str, splits: Mapping[str, Sized]) -> dict[str, int]:
    """Return the sizes of a task's splits, but that of a stream."""
    return {split: len(part) for split, part in splits.items() if split != "train" or task not in built.streams}


def _stages(built: BuiltRun, machine: Machine, processes: int) -> tuple[tuple[StageForecast, ...], list[str]]:
    """Return the forecasts, and what to warn of."""
    forecasts, warnings = [], []
    model = built.model.to(machine.device)
    held = Held.now(model, machine)
    for index, resolved in enumerate(built.resolved.stages):
        stage = resolved.stage
        strategy, combiner, counts = begin(resolved, model)
        rates = learning_rates(stage, strategy.learning_rate)
        plan, _ = plan_of(stage, built, index)
        batcher = Batcher(
            stage=stage,
            model=model.to(machine.device),
            execution=_execution(built, stage, machine),
            combiner=combiner,
            train=built.examples["train"],
            streams=streams_of(stage, built, index),
            machine=machine,
            seed=built.resolved.recipe.seed,
        )
        memory = forecast(batcher, plan, rest=held.rest, processes=processes)
        warning = advice.warning(batcher, plan, memory, held.room, processes=processes)
        warnings += [warning] if warning else []
        forecasts.append(
            StageForecast(
                name=stage.name,
                tasks=stage.tasks,
                strategy=plugin_name(resolved.strategy),
                combiner=plugin_name(resolved.combiner),
                steps=plan.steps,
                train_batch_size=rows_per_step(stage),
                rows_per_pass=_rows_at_once(stage, processes),
                learning_rate=rates.trunk,
                head_learning_rate=rates.head,
                trainable=counts.trainable,
                trunk=counts.trunk,
                heads=counts.heads,
                memory=memory,
                room=held.room,
            )
        )
        if built.resolved.folds_after(index):
            model.fold_strategy()
    return tuple(forecasts), warnings


def _execution(built: BuiltRun, stage: Stage, machine: Machine) -> ExecutionPlan:
    """Return how the stage is likely to compute, as far as that changes its memory."""
    model = built.model
    probe = frozen_prefix.probe(model, stage.tasks, built.examples["train"], seed=built.resolved.recipe.seed)
    exact = frozen_weights.representable(model) if machine.precision.name == "bf16" else []
    return ExecutionPlan(
        strategy=model.strategy,
        frozen=frozen_prefix.find(model, probe, machine),
        fast_kernels=fast_paths.KERNELS,
        bfloat16_weights=tuple(exact),
    )


def _rows_at_once(stage: Stage, processes: int) -> int:
    """Return the most rows that one process computes at once: its share of a step, or less where passes are limited."""
    return min(rows_per_pass(stage), -(-rows_per_step(stage) // processes))
