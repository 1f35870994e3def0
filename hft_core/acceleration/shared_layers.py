"""The layers that tasks have in common under a strategy that routes rows: a text goes through them once for all tasks
of a batch that read it, and from there on as a row for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from hft_core.acceleration import frozen_prefix
from hft_core.batching.batch import Batch, UniqueRows
from hft_core.device.gemm_speed import DTYPES
from hft_core.model.frozen_layers import Common

if TYPE_CHECKING:
    from hft_core.data.examples import Examples
    from hft_core.device.distributed import Machine
    from hft_core.model.hybrid import HybridModel


def settle(model: HybridModel, examples: Mapping[str, Examples], machine: Machine, *, seed: int) -> None:
    """Find out which layers the tasks of `examples` have in common, once for each strategy that the model is under.

    After the strategy was applied. It is seen in a pass of a few rows whether one that is divided there is the whole.
    """
    known = model.common.strategy is model.strategy
    some = next((task for task, part in examples.items() if len(part)), None)
    if not known and len(examples) > 1 and some is not None:
        divisible = model.backbone.splits and not machine.sharded
        depth = model.strategy.common_layers if divisible and model.strategy.routes_rows else 0
        if depth and not all(_divides(model, batch, machine, depth) for batch in _probe(model, some, examples, seed)):
            depth = 0
        model.common = Common(model.strategy, depth)


def _probe(model: HybridModel, task: str, examples: Mapping[str, Examples], seed: int) -> list[Batch]:
    """A few rows of a task, each twice."""
    found = []
    for batch in frozen_prefix.probe(model, [task], examples, seed=seed):
        rows = torch.arange(batch.rows)
        twice = {name: torch.cat([tensor, tensor]) for name, tensor in batch.inputs.items()}
        found.append(Batch(twice, (), unique_rows=UniqueRows(rows, torch.cat([rows, rows])), idle_task=task))
    return found


def _divides(model: HybridModel, batch: Batch, machine: Machine, depth: int) -> bool:
    """Whether a batch that is divided above `depth` layers has the hidden states that it has in one pass."""
    products = DTYPES[machine.precision.name]  # a norm may give float32 of what was multiplied in bfloat16
    moved = batch.to(machine.device)
    assert moved.unique_rows is not None
    with model.evaluating(), torch.no_grad(), machine.autocast():
        whole = model.strategy.forward(model.backbone, moved.inputs, moved.task_rows)
        lower = model.backbone.lower(moved.inputs, depth)
        if lower.shape != whole.shape:  # hidden states in a form of the family's own
            return False
        again = model.above_common(moved, moved.unique_rows, depth)
    real = moved.inputs["attention_mask"].bool()
    off = (again - whole)[real].abs().max() / whole[real].abs().max()
    return float(off) <= max(frozen_prefix.TOLERANCES.get(kind, 0.0) for kind in (lower.dtype, products))
