"""Predict the memory that a process holds at most while it trains a stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from hft_core.batching.batch import Batch
from hft_core.batching.plan import Plan
from hft_core.device.free_memory import free_memory
from hft_core.device.machine import Machine
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.device.peak_memory import held_memory
from hft_core.errors import ModelError
from hft_core.memory import heap
from hft_core.memory.step_trace import Trace, size_of, trace_step
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.batch_size import rows_per_pass
from hft_core.runtime import allocator
from hft_core.training.micro_batches import Batcher

SAMPLED_STEPS = 200
"""Steps of a stage among which its largest batch is looked for."""
MOMENTS = 2
"""Of AdamW, as large as a parameter each."""
ACTIVATION_BYTES = 68
"""Kept for the backward pass, by token, layer and hidden unit, in float32: twice the 34 of 16-bit values in Korthikanti
et al. 2022, arXiv:2205.05198, without attention scores, which fused attention does not keep."""


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes that a process is predicted to hold when a stage takes the most."""

    weights: int
    gradients: int
    """Those that are there when the most is taken: none before a step's backward pass."""
    optimizer: int
    activations: int
    """What is kept for the backward pass, and what is computed on the way."""
    rest: int
    """What the process holds beside the model: libraries, rows, the tokenizer."""
    tokens: int
    """Padded tokens of the largest batch."""
    rows: int
    traced: bool
    """Whether a step was traced; else `activations` come from a formula."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.rest


@dataclass(frozen=True)
class Held:
    """What the process holds before a stage."""

    rest: int
    """Bytes beside the model."""
    room: int | None
    """The bytes that the process may hold, those that it holds included; None if unknown."""

    @classmethod
    def now(cls, model: HybridModel, machine: Machine) -> Held:
        allocator.trim()
        weights = size_of([*model.parameters(), *model.buffers()])
        held, free = held_memory(machine.device) or weights, free_memory(machine.device)
        return cls(max(0, held - weights), None if free is None else free + held)


def forecast(batcher: Batcher, plan: Plan, *, rest: int, processes: int = 1) -> StageMemory:
    """Predict for a stage whose strategy was applied to the model.

    `plan`: the stage's steps; `rest`: bytes that the process holds beside the model; `processes`: those that train.
    """
    indices = np.unique(np.linspace(0, plan.steps - 1, min(SAMPLED_STEPS, plan.steps)).astype(int))
    batch, batches = batcher.largest((plan.step(int(index)) for index in indices), processes)
    trained = _trained(batcher)
    in_bytes = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    copies = _copies_of_gradients(batcher)
    trace = _trace(batcher, batch, batches)
    if trace is None:
        weights = size_of([*batcher.model.parameters(), *batcher.model.buffers()])
        gradients, activations = in_bytes, by_formula(batcher, batch.inputs["input_ids"].numel())
    else:
        most, place = heap.peak(trace.events, batcher.machine.device.type)
        weights, gradients = trace.weights, _remaining(trace, place)
        activations = most - gradients
    spare = in_bytes - gradients - activations  # the best weights are copied when they are saved
    return StageMemory(
        weights=weights,
        gradients=gradients + copies,
        optimizer=MOMENTS * in_bytes,
        activations=activations + max(0, spare),
        rest=rest,
        tokens=batch.inputs["input_ids"].numel(),
        rows=batch.rows,
        traced=trace is not None,
    )


def may_take_much(batcher: Batcher, plan: Plan) -> bool:
    """Tell whether a stage may take more than an eighth of what is free, by a formula: a trace takes seconds."""
    free = free_memory(batcher.machine.device)
    if free is None:
        return False
    weights = size_of([*batcher.model.parameters(), *batcher.model.buffers()])
    lengths = [int(batcher.train[task].lengths.max()) for task in batcher.stage.tasks]
    tokens = min(rows_per_pass(batcher.stage), plan.batch) * max(lengths)
    tokens = min(tokens, batcher.stage.max_tokens_per_batch or tokens)
    trained = sum(parameter.numel() * parameter.element_size() for parameter in _trained(batcher))
    return 8 * (weights + (1 + MOMENTS) * trained + by_formula(batcher, tokens)) > free


def by_formula(batcher: Batcher, tokens: int) -> int:
    """Return about the bytes of the activations of a batch, without a trace."""
    backbone, frozen = batcher.model.backbone, batcher.execution.frozen.depth
    try:
        depth = max(1, len(backbone.layers) - frozen) if batcher.model.trunk_parameters() else 1
    except ModelError:  # the layers of this family are not known
        depth = 1
    return ACTIVATION_BYTES * tokens * depth * backbone.hidden_size


def _trace(batcher: Batcher, batch: Batch, batches: int) -> Trace | None:
    """Trace a step; with several batches a second one, whose forward pass finds the gradients of the first."""
    try:
        return trace_step(batcher.model, [batch] * min(2, batches), batcher.execution, batcher.machine)
    except Exception as error:  # a model's code may decide by values, and fail in any way without them
        if is_out_of_memory(error):
            raise
        return None


def _trained(batcher: Batcher) -> list[nn.Parameter]:
    model = batcher.model
    of_combiner = [parameter for parameter in batcher.combiner.parameters() if parameter.requires_grad]
    return [*model.trunk_parameters(), *model.head_parameters(batcher.stage.tasks), *of_combiner]


def _copies_of_gradients(batcher: Batcher) -> int:
    """Return the bytes of the gradients that a combiner gets of each task."""
    combiner = batcher.combiner
    if not combiner.per_task_gradients or combiner.at != "shared":
        return 0
    shared = batcher.model.shared_parameters()
    return len(batcher.stage.tasks) * sum(parameter.numel() * parameter.element_size() for parameter in shared)


def _remaining(trace: Trace, place: int) -> int:
    """Return the bytes that are there at event `place` and after the last one: gradients."""
    freed = {event.block for event in trace.events if not event.size}
    return sum(event.size for event in trace.events[: place + 1] if event.block not in freed)
