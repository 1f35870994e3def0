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
from hft_core.head import Head
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
    fresh = [task for task in tasks if _reports_scale(model.head(task))]
    scales = _input_scales(model, {task: _sample(examples[task]) for task in fresh}, machine, seed) if fresh else {}
    return {task: float(f"{min(1 / scale, MAX_FACTOR):.2g}") for task, scale in scales.items() if scale > 0}


def _reports_scale(head: Head) -> bool:
    """Return whether the head is fresh and overrides `Head.input_scale`."""
    return not head.pretrained and not head.part_of_trunk and type(head).input_scale is not Head.input_scale


def _sample(examples: Examples) -> Examples:
    units = len(examples.sizes)
    return examples.of(np.unique(np.linspace(0, units - 1, min(SAMPLE_EXAMPLES, units)).astype(int)))


def _input_scales(model: HybridModel, samples: Mapping[str, Examples], machine: Machine, seed: int) -> dict[str, float]:
    """Return the root mean square of what each head's output layer reads, over its sample; tasks with the same texts
    share a pass. A head that tells no scale is left out."""
    heads = {task: model.head(task) for task in samples}
    pad, dedupe = model.backbone.tokenizer.pad_token_id, not model.strategy.routes_rows
    collator = Collator(samples, heads, seed=seed, pad=pad, dedupe_inputs=dedupe)
    squares, rows = dict.fromkeys(samples, 0.0), dict.fromkeys(samples, 0)
    silent: set[str] = set()
    with model.evaluating(), torch.no_grad():
        for batch in collator.in_length_order(max_rows=SAMPLE_EXAMPLES, max_tokens=EVALUATION_TOKENS):
            moved = batch.to(machine.device)
            with machine.autocast():
                for segment, features in model.segments(moved, model.hidden(moved)):
                    scale = heads[segment.task].input_scale(features)
                    if scale is None:
                        silent.add(segment.task)
                        continue
                    squares[segment.task] += len(features.hidden) * scale**2
                    rows[segment.task] += len(features.hidden)
    return {task: (squares[task] / rows[task]) ** 0.5 for task in samples if rows[task] and task not in silent}
