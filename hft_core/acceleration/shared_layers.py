"""Find the lower layers that tasks share under a strategy that routes rows: a text passes them once for all tasks of a
batch that read it, and the layers above as a row for each task.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hft_core.acceleration import frozen_prefix
from hft_core.batching.batch import Batch, UniqueRows
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine
from hft_core.model.hybrid import HybridModel


def depth(model: HybridModel, examples: Mapping[str, Examples], machine: Machine, *, seed: int) -> int:
    """How many layers tasks share under the model's strategy: as many as it says, if a deduplicated pass of a few rows
    of `examples` has the hidden states of a plain one, otherwise none."""
    task = next((task for task, part in examples.items() if len(part)), None)
    possible = model.backbone.splits and model.strategy.routes_rows
    layers = model.strategy.common_layers if possible and task is not None else 0
    if not layers or task is None:
        return 0
    alike = (_matches(model, batch, machine, layers) for batch in _probe(model, task, examples, seed))
    return layers if all(alike) else 0


def _probe(model: HybridModel, task: str, examples: Mapping[str, Examples], seed: int) -> list[Batch]:
    """A few rows of a task, each twice."""
    batches = []
    for batch in frozen_prefix.probe(model, [task], examples, seed=seed):
        rows = torch.arange(batch.rows)
        twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.inputs.items()}
        batches.append(Batch(twice, (), unique_rows=UniqueRows(rows, torch.cat([rows, rows])), idle_task=task))
    return batches


def _matches(model: HybridModel, batch: Batch, machine: Machine, layers: int) -> bool:
    """Whether a batch that is deduplicated in `layers` layers has the hidden states of a plain pass."""
    moved = batch.to(machine.device)
    assert moved.unique_rows is not None
    with model.evaluating(), torch.no_grad(), machine.autocast():
        expected = model.hidden(moved)
        lower = model.backbone.lower(moved.inputs, layers)
        if lower.shape != expected.shape:  # hidden states in a form of the family's own
            return False
        deduplicated = model.deduplicated(moved, moved.unique_rows, layers)
    real = moved.inputs["attention_mask"].bool()
    error = (deduplicated - expected)[real].abs().max() / expected[real].abs().max()
    return float(error) <= frozen_prefix.tolerance(lower.dtype, machine)
