"""Make the parts of a stage: its plan, its strategy and combiner on the model, its rule for the best weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
from torch import nn

from hft_core.backbone import QuantizedModule
from hft_core.batching.mixture import Mixture
from hft_core.batching.plan import Plan
from hft_core.batching.shared_inputs import tasks_with_shared_inputs
from hft_core.combiner import Combiner
from hft_core.data.streamed_examples import StreamedExamples
from hft_core.device.machine import Machine
from hft_core.errors import RecipeError
from hft_core.model import gradient_checkpointing
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.batch_size import rows_per_step
from hft_core.recipe.resolve import ResolvedStage
from hft_core.recipe.stage import Stage
from hft_core.runs import assembly
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.stage_report import Counts, plugin_name
from hft_core.strategy import Strategy
from hft_core.training.evaluation import score
from hft_core.training.selection import Selection

HEAD_WARMUP_SHARE = 0.1
"""Share of a stage's steps in which fresh heads train on a frozen trunk."""
SAMPLE_ROWS = 8
"""Dev rows on which a metric is looked for before training."""


def units_of(stage: Stage, an_epoch: int) -> int:
    """Units that the stage sees in all, when an epoch has `an_epoch`."""
    if stage.max_steps is not None:
        return stage.max_steps * rows_per_step(stage)
    assert stage.num_train_epochs is not None, "with_budgets comes before"
    return max(1, round(stage.num_train_epochs * an_epoch))


def head_steps_of(stage: Stage, steps: int, *, fresh: bool, trunk_trains: bool) -> int:
    """Steps in which only heads train (see `Stage.head_warmup_steps`)."""
    if stage.head_warmup_steps != "auto":
        return min(stage.head_warmup_steps, steps)
    return round(HEAD_WARMUP_SHARE * steps) if fresh and trunk_trains else 0


def plan_of(stage: Stage, material: BuiltRun, index: int) -> tuple[Plan, int]:
    """The stage's plan, and the units in one of its epochs."""
    train, none = material.examples["train"], np.empty(0, np.int32)
    lengths = {task: none if task in material.streams else train[task].lengths for task in stage.tasks}
    counts = {task: len(values) or 1 for task, values in lengths.items()}  # no share depends on that of a stream
    replay = material.resolved.recipe.replay_in(stage)
    an_epoch = assembly.units_in_epoch(material.resolved, stage, train)
    plan = Plan(
        lengths,
        Mixture(counts, stage.sampling, replay),
        batch=rows_per_step(stage),
        total=units_of(stage, an_epoch),
        seed=material.resolved.recipe.seed,
        stage=index,
        same_inputs_as=tasks_with_shared_inputs(
            {task: train[task] for task in stage.tasks if task not in material.streams}, material.heads
        ),
    )
    return plan, an_epoch


def streams_of(stage: Stage, material: BuiltRun, index: int) -> dict[str, StreamedExamples]:
    """The examples of the stage's tasks that stream, from the beginning, in the order of stage `index`."""
    seed, model = material.resolved.recipe.seed, material.model
    return {
        task: StreamedExamples(
            material.streams[task],
            model.head(task),
            model.backbone.tokenizer,
            assembly.max_length(material.resolved, task, model),
            seed=(seed, index, zlib.crc32(task.encode())),
        )
        for task in stage.tasks
        if task in material.streams
    }


def begin(resolved: ResolvedStage, model: HybridModel) -> tuple[Strategy, Combiner, Counts]:
    """Let the stage's strategy and heads have the model, up to what trains.

    Raises `RecipeError` when nothing does, and what the strategy and the combiner raise.
    """
    stage = resolved.stage
    trunk = _size(model.trunk.parameters()) + quantized_numbers(model.trunk)
    strategy, combiner = assembly.strategy_of(resolved), assembly.combiner_of(resolved)
    writing = [task for task in stage.tasks if model.head(task).generates and not strategy.generates]
    if writing:
        raise RecipeError(
            f"stage '{stage.name}': the task '{writing[0]}' writes text, and text cannot be generated under strategy "
            f"'{plugin_name(resolved.strategy)}'"
        )
    model.apply_strategy(strategy, stage.tasks)
    gradient_checkpointing.set_for(stage, model)
    model.choose_heads(stage.tasks)
    counts = Counts(_size(model.trunk_parameters()), trunk, _size(model.head_parameters(stage.tasks)))
    if not counts.trainable and not counts.heads:
        raise RecipeError(
            f"stage '{stage.name}' trains nothing: the strategy freezes the trunk, and the heads of its tasks "
            f"({', '.join(stage.tasks)}) came with the trunk and train only with it"
        )
    return strategy, combiner, counts


def selection_of(stage: Stage, material: BuiltRun, machine: Machine) -> Selection:
    """The stage's rule for the best weights; a metric that it names is looked for on a few rows before training."""
    dev = material.examples["dev"]
    selection = Selection(stage, material.heads, {task: len(examples) for task, examples in dev.items()})
    if selection.task and stage.eval_strategy != "no":
        if selection.task not in dev:
            raise RecipeError(
                f"stage '{stage.name}': metric_for_best_model '{stage.metric_for_best_model}' cannot be measured: "
                f"the task '{selection.task}' has no dev rows"
            )
        few = {selection.task: dev[selection.task].of(np.arange(min(SAMPLE_ROWS, len(dev[selection.task].sizes))))}
        selection.check(score(material.model, few, few, machine, seed=material.resolved.recipe.seed))
    return selection


def quantized_numbers(trunk: nn.Module) -> int:
    """Count the weights that are stored in few bits."""
    return sum(module.numbers for module in trunk.modules() if isinstance(module, QuantizedModule))


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
