"""Which modules a PEFT method adapts where the recipe names none and PEFT has no choice of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from hft_plugins.strategies.selective.layer_norm import is_norm


def fill_targets(config: Any, trunk: nn.Module) -> None:
    """Set the target modules of `config` from the trunk, for the methods that PEFT knows on few models only."""
    fill = _FILLS.get(config.peft_type)
    if fill is not None and config.target_modules is None:
        fill(config, trunk)


def _ia3(config: Any, trunk: nn.Module) -> None:
    """PEFT's own choice where it knows the model; otherwise all linear layers, and among them those that narrow (the
    feed-forward blocks' second ones) by their input, as in the paper."""
    known = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    if getattr(getattr(trunk, "config", None), "model_type", None) in known:
        return
    layers = {name: module for name, module in trunk.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    config.target_modules = set(layers)
    if config.feedforward_modules is None:
        config.feedforward_modules = {name for name, layer in layers.items() if _narrows(layer)}


def _narrows(layer: nn.Linear | Conv1D) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features > layer.out_features
    inputs, outputs = layer.weight.shape
    return bool(inputs > outputs)


def _norms(config: Any, trunk: nn.Module) -> None:
    """Every norm of the trunk."""
    config.target_modules = {name for name, module in trunk.named_modules() if is_norm(module)}


_FILLS: dict[str, Callable[[Any, nn.Module], None]] = {"IA3": _ia3, "LN_TUNING": _norms}
