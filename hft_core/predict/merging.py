"""Merge the adapter of an opened run into its trunk, so that it predicts at the speed of a fully trained one."""

from __future__ import annotations

import torch
from torch import Tensor

from hft_core.backbone import Features
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.resolve import Resolved

TEXTS = ("The harbour opened again after two days of storms.", "no", "Why does my order say it was returned?")
"""What the check reads."""
NEAR = 1e-5
"""The largest difference of two outputs, as a share of the largest output where that is above 1."""


def merges(resolved: Resolved, model: HybridModel) -> bool:
    """Tell whether a run has one adapter, which can be merged into its trunk."""
    one = len(resolved.last_strategies()) == 1 and resolved.stages[-1].merges
    return one and model.strategy.adapter and not model.strategy.routes_rows and not model.backbone.quantization


def merge(model: HybridModel) -> bool:
    """Merge the adapter; return whether a few texts have the outputs that they had before, in float32.

    Where they have not, the run has to be opened anew: weights that were rounded cannot be taken apart.
    """
    before = _outputs(model)
    model.fold_strategy()
    return all(_near(old, new) for old, new in zip(before, _outputs(model), strict=True))


def _near(old: Tensor, new: Tensor) -> bool:
    return float((old - new).abs().max()) <= NEAR * max(1.0, float(old.abs().max()))


def _outputs(model: HybridModel) -> list[Tensor]:
    """Compute the hidden states and all heads' outputs for each text by itself."""
    backbone, found = model.backbone, []
    limit = backbone.max_length - model.strategy.virtual_tokens
    with torch.inference_mode():
        for text in TEXTS:
            inputs = backbone.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
            hidden = model.strategy.forward(backbone, inputs, [(task, slice(None)) for task in model.heads])
            features = Features(hidden, inputs["input_ids"], inputs["attention_mask"])
            found.append(hidden)
            found += [tensor for task in model.heads for tensor in model.head(task).outputs(features).values()]
    return found
