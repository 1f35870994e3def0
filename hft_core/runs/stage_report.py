"""What a stage is when it begins and what it was when it is over: the facts for observers and results."""

from __future__ import annotations

from dataclasses import dataclass

from hft_core import events
from hft_core.acceleration.activation_cache import ActivationCache
from hft_core.device.clock import TRAINING
from hft_core.recipe.batch_size import rows_per_pass, rows_per_step
from hft_core.recipe.resolve import Chosen, ResolvedStage
from hft_core.results import Scores, StageResult
from hft_core.training.progress import Progress
from hft_core.training.selection import made_worse, why_not_the_best
from hft_core.training.stage_setup import StageSetup


@dataclass(frozen=True)
class Counts:
    """Parameters of a stage."""

    trainable: int
    """Those of the trunk that train."""
    trunk: int
    """Those of the trunk in all, without what the strategy added."""
    heads: int
    """Those of heads that train."""


def announcement(
    index: int,
    stages: int,
    resolved: ResolvedStage,
    setup: StageSetup,
    counts: Counts,
    before: Scores,
    step: int,
) -> events.StageStarted:
    """The stage before its first step, or before the one after `step`; `stages`: how many the run has."""
    return events.StageStarted(
        index=index,
        name=resolved.stage.name,
        stages=stages,
        tasks=resolved.stage.tasks,
        strategy=plugin_name(resolved.strategy),
        combiner=plugin_name(resolved.combiner),
        steps=setup.plan.steps,
        train_batch_size=rows_per_step(setup.stage),
        trainable=counts.trainable,
        trunk=counts.trunk,
        heads=counts.heads,
        before=before,
        step=step,
        head_warmup_steps=setup.head_steps,
        frozen_layers=setup.execution.frozen.depth,
        stored=setup.execution.reasons["store"],
        compiled=_compiled(setup),
    )


def result(
    resolved: ResolvedStage,
    setup: StageSetup,
    progress: Progress,
    counts: Counts,
    before: Scores,
    after: Scores,
    cache: ActivationCache,
) -> StageResult:
    """The stage after its last step: its dev scores `before` and `after`, and what it cost."""
    heads = {task: setup.model.head(task) for task in {*before, *after}}
    rows = {task: len(part) for task, part in setup.dev.items()}
    seconds, machine = setup.machine.clock.seconds(), setup.machine.precision
    training = sum(seconds[part] for part in TRAINING)
    return StageResult(
        name=resolved.stage.name,
        tasks=resolved.stage.tasks,
        strategy=plugin_name(resolved.strategy),
        combiner=plugin_name(resolved.combiner),
        steps=progress.step,
        train_batch_size=rows_per_step(setup.stage),
        best_step=progress.best_step,
        best_reason=_best_reason(setup, progress),
        stopped_early=progress.stopped_early,
        learning_rate=setup.learning_rates.trunk,
        head_learning_rate=setup.learning_rates.head,
        head_learning_rates={task: setup.learning_rates.of_head(task) for task in setup.stage.tasks},
        head_warmup_steps=setup.head_steps,
        trainable=counts.trainable,
        trunk=counts.trunk,
        heads=counts.heads,
        before=before,
        after=dict(after),
        main_metrics={task: heads[task].main_metric for task in after},
        history=tuple(progress.history),
        rows=progress.rows,
        tokens=progress.tokens,
        rows_per_s=progress.rows / training,
        tokens_per_s=progress.tokens / training,
        precision=machine.name,
        precision_reason=machine.reason,
        gemm_share=progress.work.flops / (training * machine.gflops * 1e9) if progress.work.flops else None,
        seconds={**seconds, "total": sum(seconds.values())},
        skipped_steps=progress.skipped,
        training={task: setup.watch.facts(progress, task) for task in setup.stage.tasks},
        compilation={"chosen": setup.execution.compiled, "reason": setup.execution.reasons["compiled"]},
        warnings=(
            *_without_effect(setup),
            *setup.watch.findings(progress),
            *_divided(setup, progress),
            *cache.warnings,
            *setup.execution.warnings,
            *made_worse(before, after, heads, rows),
        ),
    )


def _best_reason(setup: StageSetup, progress: Progress) -> str:
    if not setup.stage.load_best_model_at_end:
        return ""
    noise = max((setup.selection.noise(each.scores) for each in progress.history), default=0.0)
    return why_not_the_best(progress.history, progress.best_step, noise)


def _compiled(setup: StageSetup) -> str:
    """Whether the layers are compiled, and why; empty where the recipe does not ask for it."""
    if setup.stage.torch_compile == "no":
        return ""
    return f"{'yes' if setup.execution.compiled else 'no'}: {setup.execution.reasons['compiled']}"


def _without_effect(setup: StageSetup) -> list[str]:
    """A combiner that had nothing to go by."""
    found = []
    if setup.combiner.per_task_gradients and not setup.model.shared_parameters():
        found.append("the combiner had no gradients to combine: the tasks share nothing that trains")
    blind = [task for task in setup.stage.tasks if setup.combiner.dev_every and task not in setup.dev]
    if blind:
        found.append(f"the combiner follows dev losses, and these tasks have no dev rows: {', '.join(blind)}")
    return found


def _divided(setup: StageSetup, progress: Progress) -> list[str]:
    if progress.max_units is None:
        return []
    wanted = rows_per_pass(setup.stage)
    return [
        f"memory was too small for {wanted} rows in one pass: steps were divided into passes of {progress.max_units}"
    ]


def plugin_name(chosen: Chosen | None) -> str:
    """A plugin's name; empty where the recipe leaves the choice to the contract's own default."""
    return chosen.entry.name if chosen is not None else ""
