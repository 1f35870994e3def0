"""Say that a stage does not fit into memory, and the one change of its recipe that makes it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from hft_core.batching.plan import Plan
from hft_core.errors import RecipeError
from hft_core.memory.forecast import StageMemory, forecast
from hft_core.model import gradient_checkpointing
from hft_core.training.micro_batches import Batcher

GIB = 2**30
OF_NF4 = 0.14
"""Bytes in nf4 for each byte in float32: four bits, and the scales of blocks."""


@dataclass(frozen=True)
class Change:
    """A change of the recipe, and the bytes that the stage would take with it."""

    text: str
    total: int


def describe(memory: StageMemory, room: int | None) -> str:
    """Return the prediction in a line. `room`: the bytes that the process may hold; None if unknown."""
    parts = {name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations", "rest")}
    listed = ", ".join(f"{name} {in_gib(size)}" for name, size in parts.items())
    free = "" if room is None else f", of {in_gib(room)} GiB free"
    how = "" if memory.traced else "; activations by a formula, since the model cannot be traced"
    return f"about {in_gib(memory.total)} GiB ({listed}{how}){free}"


def in_gib(size: int) -> str:
    gib = size / GIB
    return f"{gib:.0f}" if gib >= 10 else f"{gib:.1f}" if gib >= 1 else f"{gib:.2f}"


def warning(batcher: Batcher, plan: Plan, memory: StageMemory, room: int | None, *, processes: int = 1) -> str:
    """Return what to say where the stage is predicted not to fit, with the change that helps most; empty where it
    fits."""
    if room is None or memory.total <= room:
        return ""
    name, needed = batcher.stage.name, in_gib(memory.total)
    text = f"stage '{name}' takes about {needed} GiB of memory, and {in_gib(room)} GiB are free"
    change = best_change(batcher, plan, memory, room, processes)
    if change is None:
        return f"{text}: take a smaller model"
    still = "" if change.total <= room else ", still too much"
    return f"{text}: {change.text} (about {in_gib(change.total)} GiB{still})"


def best_change(batcher: Batcher, plan: Plan, memory: StageMemory, room: int, processes: int = 1) -> Change | None:
    """Return the first change with which the stage fits, those before others that leave the results as they are;
    otherwise the one with which it takes the least, and None where none helps."""
    found: list[Change] = []
    for change in _changes(batcher, plan, memory, room, processes):
        if change.total <= room:
            return change
        found.append(change)
    best = min(found, key=lambda change: change.total, default=None)
    return best if best is not None and best.total < memory.total else None


def _changes(batcher: Batcher, plan: Plan, memory: StageMemory, room: int, processes: int) -> Iterator[Change]:
    yield from _smaller_batches(batcher, plan, memory, room, processes)
    yield from _checkpointing(batcher, plan, memory, processes)
    yield from _smaller_weights(batcher, memory)
    trained = memory.optimizer + memory.gradients
    if not batcher.model.strategy.adapter and batcher.model.trunk_parameters() and trained:
        yield Change("set strategy: lora", memory.total - trained)


def _smaller_batches(batcher: Batcher, plan: Plan, memory: StageMemory, room: int, processes: int) -> Iterator[Change]:
    """The same steps in smaller passes, of as many rows as fit."""
    width = memory.tokens // memory.rows
    spare = room - (memory.total - memory.activations)
    rows = min(memory.rows - 1, int(memory.rows * max(0, spare) / max(1, memory.activations)))
    for count in dict.fromkeys(max(1, share) for share in (rows, rows * 3 // 4, rows // 2, 1)):
        if count < memory.rows:
            stage = batcher.stage.model_copy(update={"max_tokens_per_batch": count * width})
            predicted = forecast(replace(batcher, stage=stage), plan, rest=memory.rest, processes=processes)
            yield Change(f"set max_tokens_per_batch: {count * width}", predicted.total)


def _checkpointing(batcher: Batcher, plan: Plan, memory: StageMemory, processes: int) -> Iterator[Change]:
    stage, model = batcher.stage, batcher.model
    if stage.gradient_checkpointing or not model.trunk_parameters():
        return
    changed = stage.model_copy(update={"gradient_checkpointing": True})
    try:
        gradient_checkpointing.set_for(changed, model)
    except RecipeError:
        return
    try:
        predicted = forecast(replace(batcher, stage=changed), plan, rest=memory.rest, processes=processes)
    finally:
        gradient_checkpointing.set_for(stage, model)
    yield Change("set gradient_checkpointing: true", predicted.total)


def _smaller_weights(batcher: Batcher, memory: StageMemory) -> Iterator[Change]:
    """Frozen weights in fewer bits, under a strategy that saves an adapter."""
    model, plan = batcher.model, batcher.execution
    if not model.strategy.adapter or model.backbone.quantization:
        return
    held = {id(parameter) for parameter in plan.bfloat16_weights}
    if not held and batcher.machine.precision.name == "bf16":
        size = sum(p.numel() * p.element_size() for p in model.trunk.parameters() if not p.requires_grad)
        yield Change("set dtype: bf16 in the backbone", memory.total - size // 2)
    frozen = [
        module.weight
        for module in model.trunk.modules()
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    saved = sum(p.numel() * ((2 if id(p) in held else p.element_size()) - 4 * OF_NF4) for p in frozen)
    if saved > 0:
        yield Change("set quantization: nf4 in the backbone", memory.total - int(saved))
