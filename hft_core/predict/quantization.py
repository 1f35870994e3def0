"""A finished run's trunk with int8 linear layers: quicker products on CPUs, answers that are near the run's own.

torch's dynamic quantisation: a layer's weights are int8 with a scale for each output; what goes into it is made int8 at
each call, with one scale for the whole batch, so that what a row becomes depends a little on its batch. Everything else
computes in float32: heads, embeddings, normalisation, attention itself, and what a strategy has beside the trunk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from hft_core.device import distributed
from hft_core.device.distributed import Machine
from hft_core.errors import UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.entries import one_line
from hft_core.results import Scores

OF_NO_CONCERN = (
    (DeprecationWarning, r"torch\.ao\.quantization is deprecated"),
    (UserWarning, r"torch\.quantize_per_tensor, torch\.quantize_per_channel"),
)
"""What torch says at each use of its quantisation, by the category and the beginning of the text."""
COLUMNS = ("value", "int8", "difference")
"""What `beside` says of a score."""


def find_machine() -> Machine:
    """The machine of this process, where it computes with int8 layers: they take float32 and give float32.

    Raises `UsageError` where it cannot.
    """
    _quantisation()
    if torch.backends.quantized.engine == "none":
        raise UsageError("int8: this build of torch has no engine for int8 products on this processor: leave int8 out")
    found = distributed.find("fp32")
    if found.device.type != "cpu":
        raise UsageError(
            f"int8: torch's dynamic quantisation computes on CPUs alone, and this process on {found.device.type}: "
            "leave int8 out, or set ACCELERATE_USE_CPU=true"
        )
    return found


def quantise(model: HybridModel, *, merges: bool) -> None:
    """Make the linear layers of the trunk int8, in place; the model can only be evaluated afterwards.

    `merges`: what the strategy added can be folded into the trunk, and is. Where it cannot, it stays as it is on top of
    the trunk's own layers, which are int8.

    Raises `UsageError` when the trunk has no linear layers, or its modules do not work with int8 ones.
    """
    trunk = model.trunk
    if merges and model.strategy.adapter:
        model.fold_strategy()
    own = {tensor.data_ptr() for tensor in model.strategy.base_state(model.backbone).values()}
    layers = [n for n, m in trunk.named_modules() if type(m) is nn.Linear and m.weight.data_ptr() in own]
    if not layers:
        raise UsageError(f"int8: {type(trunk).__name__} has no linear layers (torch.nn.Linear) that could be quantised")
    quantize_dynamic, per_channel = _quantisation()
    with warnings.catch_warnings():
        for category, text in OF_NO_CONCERN:
            warnings.filterwarnings("ignore", text, category)
        quantize_dynamic(trunk, dict.fromkeys(layers, per_channel), inplace=True)
    _try_out(model)


def beside(
    plain: Mapping[str, Scores], quantised: Mapping[str, Scores]
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By split, task and metric: the score (`value`), that with int8 layers (`int8`) and the `difference` it makes."""
    return {
        split: {
            task: {name: _pair(value, quantised[split][task][name]) for name, value in metrics.items()}
            for task, metrics in scores.items()
        }
        for split, scores in plain.items()
    }


def _pair(value: float, int8: float) -> dict[str, float]:
    return dict(zip(COLUMNS, (value, int8, int8 - value), strict=True))


def _quantisation() -> tuple[Callable[..., nn.Module], Any]:
    """torch's function, and how it is to quantise. Raises `UsageError` where torch has it no longer."""
    try:
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
    except ImportError as error:
        raise UsageError(
            f"int8: torch {torch.__version__} has no torch.ao.quantization.quantize_dynamic any more: expected an "
            "earlier one, or leave int8 out"
        ) from error
    return quantize_dynamic, per_channel_dynamic_qconfig


def _try_out(model: HybridModel) -> None:
    """Let one short text through the trunk: a module that reads the weights of its layers fails now."""
    inputs = model.backbone.tokenizer("a text", return_tensors="pt")
    rows = [(next(iter(model.heads)), slice(0, 1))]
    try:
        with torch.inference_mode():
            model.strategy.forward(model.backbone, inputs, rows)
    except Exception as error:  # whatever a module says when it takes a quantised weight for a tensor
        name = type(model.trunk).__name__
        raise UsageError(
            f"int8: {name}, with what its strategy added, does not work with quantised layers: {one_line(error)}"
        ) from error
