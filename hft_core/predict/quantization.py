"""Quantize the linear layers of a finished run's trunk to int8, for faster products on CPUs.

This is torch's dynamic quantization. Weights are int8 with a scale per output; inputs are quantized at each call with
one scale for the whole batch, so that a row's result depends slightly on its batch. Everything else computes in
float32: heads, embeddings, normalization, attention itself, and the modules of a strategy beside the trunk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hft_core.device.machine import Machine, find_machine
from hft_core.errors import UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.entries import one_line
from hft_core.results import Scores

IGNORED_WARNINGS = (
    (DeprecationWarning, r"torch\.ao\.quantization is deprecated"),
    (UserWarning, r"torch\.quantize_per_tensor, torch\.quantize_per_channel"),
)
"""Warnings that torch gives at each use of its quantization, by category and beginning of the text."""
COLUMNS = ("value", "int8", "difference")
"""What `compare` returns of a score."""


def find_int8_machine() -> Machine:
    """Find the machine for int8 layers, whose inputs and outputs are float32.

    Raises `UsageError` where int8 is not supported.
    """
    _quantization()
    if torch.backends.quantized.engine == "none":
        raise UsageError("int8: this build of torch has no engine for int8 products on this processor: leave int8 out")
    machine = find_machine("fp32")
    if machine.device.type != "cpu":
        raise UsageError(
            f"int8: torch's dynamic quantization computes on CPUs alone, and this process on {machine.device.type}: "
            "leave int8 out, or set ACCELERATE_USE_CPU=true"
        )
    return machine


def quantize(model: HybridModel, *, merges: bool) -> None:
    """Quantize the linear layers of the trunk in place; the model can only be evaluated afterwards.

    `merges`: fold what the strategy added into the trunk first. Otherwise it stays in float32 on top of the trunk's own
    layers.

    Raises `UsageError` when the trunk has no linear layers, or its modules do not work with int8 ones.
    """
    trunk = model.trunk
    if merges and model.strategy.adapter:
        model.fold_strategy()
    own = {tensor.data_ptr() for tensor in model.strategy.base_state(model.backbone).values()}
    layers = [n for n, m in trunk.named_modules() if type(m) is nn.Linear and m.weight.data_ptr() in own]
    if not layers:
        raise UsageError(f"int8: {type(trunk).__name__} has no linear layers (torch.nn.Linear) that could be quantized")
    quantize_dynamic, per_channel = _quantization()
    with warnings.catch_warnings():
        for category, text in IGNORED_WARNINGS:
            warnings.filterwarnings("ignore", text, category)
        quantize_dynamic(trunk, dict.fromkeys(layers, per_channel), inplace=True)
    _try_out(model)


def compare(
    plain: Mapping[str, Scores], quantized: Mapping[str, Scores]
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return by split, task and metric the score (`value`), that with int8 layers (`int8`) and their `difference`."""
    return {
        split: {
            task: {name: _pair(value, quantized[split][task][name]) for name, value in metrics.items()}
            for task, metrics in scores.items()
        }
        for split, scores in plain.items()
    }


def _pair(value: float, int8: float) -> dict[str, float]:
    return dict(zip(COLUMNS, (value, int8, int8 - value), strict=True))


def _quantization() -> tuple[Callable[..., nn.Module], Any]:
    """Return torch's function and its configuration. Raises `UsageError` where torch no longer has it."""
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError as error:
        raise UsageError(
            f"int8: torch {torch.__version__} has no torch.ao.quantization.quantize_dynamic any more: expected an "
            "earlier one, or leave int8 out"
        ) from error
    return quantize_dynamic, per_channel_dynamic_qconfig


def _try_out(model: HybridModel) -> None:
    """Run one short text through the trunk: a module that reads the weights of its layers fails now."""
    inputs = model.backbone.tokenizer("a text", return_tensors="pt")
    rows = [(next(iter(model.heads)), slice(0, 1))]
    try:
        with torch.inference_mode():
            model.strategy.forward(model.backbone, inputs, rows)
    except Exception as error:  # modules that expect plain weights raise anything
        name = type(model.trunk).__name__
        raise UsageError(
            f"int8: {name}, with what its strategy added, does not work with quantized layers: {one_line(error)}"
        ) from error
