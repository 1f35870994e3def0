"""Make the batch of a trial: a few training rows of a task, of uneven length, with padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from hft_core.acceleration import frozen_prefix
from hft_core.acceleration.kernel_check import padded
from hft_core.batching.batch import Batch
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine
from hft_core.head import OWN_LENGTH
from hft_core.model.hybrid import HybridModel


def trial_batches(
    model: HybridModel, tasks: Sequence[str], examples: Mapping[str, Examples], machine: Machine, *, seed: int
) -> dict[str, Batch]:
    """Return a batch for each task, on the machine's device."""
    batches = frozen_prefix.probe(model, tasks, examples, seed=seed)
    return {batch.segments[0].task: padded(batch, model).to(machine.device) for batch in batches}


def rows_alone(batch: Batch) -> Iterator[tuple[int, int, Batch]]:
    """Yield each row by itself, without padding: its place, its length, and a batch of one row."""
    task = batch.segments[0].task
    for row, length in enumerate(lengths(batch, "")):
        inputs: dict[str, Tensor] = {}
        own = lengths(batch, OWN_LENGTH)[row] if f"{OWN_LENGTH}attention_mask" in batch.inputs else 0
        for name, tensor in batch.inputs.items():
            inputs[name] = tensor[row : row + 1, : own if name.startswith(OWN_LENGTH) else length]
        yield row, own or length, Batch(inputs, (), idle_task=task)


def lengths(batch: Batch, prefix: str) -> list[int]:
    """Return the number of real tokens of each row; with `OWN_LENGTH`, of those of the decoder."""
    found: list[int] = batch.inputs[f"{prefix}attention_mask"].sum(dim=1).tolist()
    return found
