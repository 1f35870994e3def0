"""Draw batches of training rows, one a task, to measure gradients and losses on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine
from hft_core.gradients.losses import Forward
from hft_core.model.hybrid import HybridModel

NO_LIMIT = 1 << 30


def draw_batches(
    model: HybridModel,
    examples: Mapping[str, Examples],
    machine: Machine,
    *,
    rows: int,
    draws: int,
    seed: int,
) -> Iterator[dict[str, Batch]]:
    """Yield `draws` times a batch of up to `rows` rows of each task, on the machine's device. No row is drawn twice
    before all rows of its task were."""
    orders = {task: _order(len(part.sizes), rows * draws, seed) for task, part in examples.items()}
    for draw in range(draws):
        batches = {}
        for task, part in examples.items():
            units = np.unique(orders[task][draw * rows : (draw + 1) * rows])
            collator = Collator(
                {task: part.of(units)},
                {task: model.head(task)},
                seed=seed + draw,
                pad=model.backbone.tokenizer.pad_token_id,
            )
            (batches[task],) = collator.in_length_order(max_rows=NO_LIMIT, max_tokens=NO_LIMIT)
        yield {task: batch.to(machine.device) for task, batch in batches.items()}


def _order(count: int, wanted: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rounds = [random.permutation(count) for _ in range(-(-wanted // count))]
    return np.concatenate(rounds)


def loss_of(model: HybridModel, task: str, batch: Batch, machine: Machine) -> Tensor:
    """Return the mean loss of a task's batch, without dropout where the model is in evaluation mode."""
    forward = Forward(model, [batch], machine)
    return forward.sums(batch)[task] / max(forward.counts[task], 1)


def gradients_of(loss: Tensor, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
    """Return the gradient of a loss by parameter; zeros where it does not depend on one."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
