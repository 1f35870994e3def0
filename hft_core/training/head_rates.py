"""Fit the learning rates of fresh heads to the scale of what they read.

A step of AdamW changes each weight by about the learning rate, so that the outputs of a linear layer change in
proportion to the size of its inputs. The normalized vectors of a sentence encoder (0.05 in each of 384 places) need a
rate twenty times that of inputs around 1 to learn as fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from hft_core.batching.buckets import EVALUATION_TOKENS
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine
from hft_core.model.hybrid import HybridModel

SAMPLE_EXAMPLES = 64
"""Training examples of a task, evenly spaced, from which the scale is taken."""
MAX_FACTOR = 100.0
"""Limit of the factor on a rate."""


def rate_factors(
    model: HybridModel, tasks: Iterable[str], examples: Mapping[str, Examples], machine: Machine, *, seed: int
) -> dict[str, float]:
    """Return a factor on the learning rate of each fresh head that tells the scale of its inputs (`Head.input_scale`):
    one over that scale, to two digits, so that rounding on another machine does not change it."""
    factors = {}
    for task in tasks:
        head = model.head(task)
        if head.pretrained or head.part_of_trunk:
            continue
        scale = _input_scale(model, task, examples[task], machine, seed)
        if scale is not None and scale > 0:
            factors[task] = float(f"{min(1 / scale, MAX_FACTOR):.2g}")
    return factors


def _input_scale(model: HybridModel, task: str, examples: Examples, machine: Machine, seed: int) -> float | None:
    """Return the root mean square of what the head's output layer reads, over a sample of its training examples."""
    units = len(examples.sizes)
    sample = examples.of(np.unique(np.linspace(0, units - 1, min(SAMPLE_EXAMPLES, units)).astype(int)))
    collator = Collator({task: sample}, {task: model.head(task)}, seed=seed, pad=model.backbone.tokenizer.pad_token_id)
    scales = []
    with model.evaluating(), torch.no_grad():
        for batch in collator.in_length_order(max_rows=SAMPLE_EXAMPLES, max_tokens=EVALUATION_TOKENS):
            moved = batch.to(machine.device)
            with machine.autocast():
                for segment, features in model.segments(moved, model.hidden(moved)):
                    scale = model.head(segment.task).input_scale(features)
                    if scale is None:
                        return None
                    scales.append((len(features.hidden), scale))
    rows = sum(count for count, _ in scales)
    return (sum(count * scale**2 for count, scale in scales) / rows) ** 0.5 if rows else None
