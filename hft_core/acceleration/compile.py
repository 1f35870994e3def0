"""Compile the trunk's layers while a stage trains (`torch.compile` with inductor).

Each layer is compiled in place: layers of one class share the compiled code, no module is wrapped, and no name in a
state or a saved file changes. Evaluation, prediction and passes without gradients run the layers as they are, since
each would need a compilation of its own; so do steps whose operations are counted (`hft_core.device.flops`). Dropout
draws what torch draws (`fallback_random`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hft_core.acceleration.frozen_prefix import TOLERANCES
from hft_core.batching.batch import Batch
from hft_core.device.flops import is_counting
from hft_core.device.gemm_speed import DTYPES
from hft_core.device.machine import Machine
from hft_core.device.out_of_memory import is_out_of_memory
from hft_core.errors import HftError, ModelError, RunError
from hft_core.forward_override import override_forward
from hft_core.model.execution_plan import ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept

OPTIONS: dict[str, Any] = {"fallback_random": True}

DISABLE = "TORCH_COMPILE_DISABLE"
"""torch's own environment variable: where it is `1`, nothing is compiled."""

_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch")
"""The modules whose exceptions say that compilation failed; torch has no public type for these."""


@contextmanager
def compiled_layers(model: HybridModel) -> Iterator[None]:
    """Inside, the trunk's layers run compiled code while they train. They are compiled when they are first called, and
    once for as long as `matches` is not called again."""
    # Not `nn.Module.compile`, which torch has no public way to undo.
    with override_forward({layer: _CompiledLayer(layer) for layer in layers_of(model)}):
        yield


def is_disabled() -> bool:
    """Return whether the environment switches compilation off."""
    return os.environ.get(DISABLE) == "1"


@contextmanager
def explained_failures() -> Iterator[None]:
    """Raise `RunError` in place of a failure of the compiler: a batch of another shape may need another variant of the
    code in the middle of a stage, in the forward or the backward pass."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(_COMPILERS) or is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunError(
            f"the layers could not be compiled for another shape of batch ({text}); resume the run from its last "
            f"checkpoint with {DISABLE}=1 in the environment, which leaves them uncompiled (results differ by rounding)"
        ) from error


class _CompiledLayer:
    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._plain = layer, layer.forward
        self._compiled: Any = torch.compile(layer.forward, dynamic=True, options=OPTIONS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trains = self._layer.training and torch.is_grad_enabled() and not is_counting()
        return (self._compiled if trains else self._plain)(*args, **kwargs)


def layers_of(model: HybridModel) -> list[nn.Module]:
    """The trunk's layers; none where the backbone does not know them."""
    try:
        return list(model.backbone.layers)
    except ModelError:
        return []


def missing_compiler(device: str) -> str:
    """What inductor lacks on this machine, and what to do about it; empty where it lacks nothing."""
    if device == "cuda":
        return "" if importlib.util.find_spec("triton") else "Triton was not found: install it"
    if device != "cpu":
        return f"layers are compiled on CPUs and CUDA devices only, not on {device}: train on one of these"
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX") or usual
    return "" if shutil.which(compiler) else f"no C++ compiler ('{compiler}') was found: install one, or name it in CXX"


def failure(model: HybridModel, plan: ExecutionPlan, batch: Batch, machine: Machine, *, seed: int) -> str:
    """Compile the layers and compare a pass of `batch`, forward and backward, with one through the layers as they are.

    Returns why compiled layers cannot be used; empty where they compute the same up to rounding.
    """
    torch.compiler.reset()  # an earlier stage's code counts towards torch's limit of variants
    moved = batch.to(machine.device)
    model.train_under(plan)
    plain = _pass(model, plan, moved, machine, seed)
    try:
        with compiled_layers(model):
            compiled = _pass(model, plan, moved, machine, seed)
    except Exception as error:  # compilers fail with exceptions of any type
        if isinstance(error, HftError) or is_out_of_memory(error):
            raise
        text = " ".join(str(error).split())[:200]
        return f"compilation failed ({type(error).__name__}: {text})"
    largest_error = max(_error(compiled[:1], plain[:1]), _error(compiled[1:], plain[1:]))
    if largest_error <= TOLERANCES[DTYPES[machine.precision.name]]:
        return ""
    return f"compiled layers compute other values (the error is {largest_error:.1e} of the largest one)"


def _pass(model: HybridModel, plan: ExecutionPlan, batch: Batch, machine: Machine, seed: int) -> list[Tensor]:
    """The hidden states of a batch, and the gradients of the trunk's parameters; every call draws the same random
    numbers, and leaves those of the run as they were."""
    with random_state_kept(machine.device), torch.enable_grad():
        torch.manual_seed(seed)
        with machine.autocast():
            hidden = model.hidden(batch, plan)
        weights = torch.randn(hidden.shape).to(hidden)
        gradients = torch.autograd.grad((hidden * weights).sum(), model.trunk_parameters(), allow_unused=True)
    return [hidden.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _error(values: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest value; infinite where values are not finite or not as many."""
    if len(values) != len(expected):
        return float("inf")
    largest = max((float(tensor.abs().max()) for tensor in expected), default=0.0)
    differences = [float((a - b).abs().max()) for a, b in zip(values, expected, strict=True)]
    difference = float("inf") if any(d != d for d in differences) else max(differences, default=0.0)
    return difference / largest if largest else difference
