"""Which modules a PEFT method adapts where the recipe names none and PEFT has no choice of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from hft_plugins.strategies.selective.layer_norm import is_norm

ALL_LINEAR = "all-linear"
"""PEFT's name for all linear layers."""


def fill_targets(config: Any, trunk: nn.Module) -> None:
    """Set the target modules of `config` from the trunk, for the methods that PEFT knows on few models only."""
    fill = _FILLS.get(config.peft_type)
    if fill is not None and config.target_modules is None:
        fill(config, trunk)
    if getattr(config, "target_modules", None) == ALL_LINEAR:
        _leave_out_refused(config, trunk)


def _leave_out_refused(config: Any, trunk: nn.Module) -> None:
    """Exclude from all linear layers those that PEFT refuses in a family (Mamba's, whose kernels read their weights).

    Raises `ValueError` where no linear layer is left.
    """
    layers = [name for name, module in trunk.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    refused = {leaf for name in layers if not _is_taken(config, trunk, leaf := name.rpartition(".")[2])}
    if refused and not config.exclude_modules:
        config.exclude_modules = refused
    if all(name.rpartition(".")[2] in refused for name in layers):
        others = sorted({name.rpartition(".")[2] for name, module in trunk.named_modules() if _is_matrix(module)})
        hint = (
            f" Name some of its other layers as target_modules ({', '.join(others[:6])}), or" if others else " You may"
        )
        raise ValueError(
            f"target_modules '{ALL_LINEAR}' finds no linear layers (torch.nn.Linear) in {type(trunk).__name__}.{hint} "
            "take a strategy that adds no layers ('full')"
        )


def _is_taken(config: Any, trunk: nn.Module, leaf: str) -> bool:
    """Tell whether PEFT takes layers of this name in this family."""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    try:
        tuner._check_target_module_compatiblity(None, config, trunk, leaf)  # type: ignore[arg-type]
    except (ValueError, AttributeError):
        return False
    return True


def _is_matrix(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d) and module.kernel_size == (1,)


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
