"""The trunk's layers, compiled while a stage trains (`torch.compile` with inductor).

Each layer is compiled where it stands: layers of one kind share the compiled code, no module is wrapped, and no name in
a state or a saved file changes. Evaluation, prediction and passes without gradients go through the layers as they are:
each would need a compilation of its own. Dropout draws what torch draws (`fallback_random`), and before the first step
a batch goes both ways: where hidden states or gradients are not the same, nothing is compiled.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from hft_core.acceleration.activation_cache import FrozenWork
from hft_core.acceleration.frozen_prefix import TOLERANCES
from hft_core.device.gemm_speed import DTYPES
from hft_core.device.out_of_memory import is_shortage
from hft_core.errors import HftError, ModelError, RunError, UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept

if TYPE_CHECKING:
    from hft_core.batching.batch import Batch
    from hft_core.training.checkpoint import Checkpoint
    from hft_core.training.loop import StageLoop

SECONDS = 60.0
"""What `auto` takes the compilation to cost: two variants of one kind of layer (with an attention mask and without)."""
SAVED = {"cpu": {"fp32": 0.02, "bf16": 0.0}, "cuda": {"fp32": 0.15, "bf16": 0.15}}
"""The share of the trunk's passes that `auto` takes compiled layers to save, by kind of device and number format: on
CPUs by what `tests/benchmarks/compiled.py` measured; that of CUDA devices is an assumption."""
TIMED = 3
"""Passes of which the middle one is the seconds of a pass."""


def of_stage(loop: StageLoop, work: FrozenWork, at: Checkpoint | None) -> Compiled:
    """Whether the layers are compiled in the stage of `loop`, which is about to run: what a checkpoint says was
    decided before, or what the recipe says, or an estimate.

    Raises `UsageError` where the recipe says yes and it cannot be.
    """
    stage = loop.stage
    if stage.torch_compile == "no":
        return Compiled(loop, record(False, "the recipe does not ask for it"))
    found = obstacle(loop, work)
    if stage.torch_compile == "yes":
        if found:
            raise UsageError(f"stage '{stage.name}': torch_compile is 'yes', and {found}, or set torch_compile: no")
        return Compiled(loop, record(True, "as the recipe says"))
    before = at.state.stage.compilation if at is not None else None
    if found and before and before["chosen"]:
        return Compiled(loop, record(False, f"the run began with compiled layers, but {found}"))
    if found:
        return Compiled(loop, record(False, found))
    return Compiled(loop, before or estimate(loop))


def record(chosen: bool, reason: str, estimated: float | None = None) -> dict[str, Any]:
    """What was chosen and why, as `results.json` and checkpoints have it: `estimated_seconds` of compilation, and those
    measured so far."""
    return {"chosen": chosen, "reason": reason, "estimated_seconds": estimated, "seconds": 0.0}


def obstacle(loop: StageLoop, work: FrozenWork) -> str:
    """What keeps the layers of a stage from being compiled, and what to do about it; empty where nothing does."""
    model, stage, machine = loop.model, loop.stage, loop.machine
    strategy = type(model.strategy).__name__
    found = (
        (machine.group.world_size > 1, f"{machine.name} compute: train with one process"),
        (stage.gradient_checkpointing, "the layers are computed again: set gradient_checkpointing: false"),
        (model.strategy.routes_rows, f"{strategy} routes rows by their task: choose a strategy that does not"),
        (not model.strategy.recomputes, f"{strategy} gives the layers a cache: choose a strategy that does not"),
        (model.backbone.packs, "rows are packed: set packing: false in the backbone"),
        (bool(work.chosen.rows), "what frozen layers make is stored: set cache_activations: no"),
        (not model.trunk_parameters(), "nothing in the trunk trains: choose a strategy that trains some of it"),
        (not _layers(model), f"the layers of {type(model.trunk).__name__} are not told apart: choose another trunk"),
    )
    return next((text for there, text in found if there), "") or _missing_compiler(machine.device.type)


def _layers(model: HybridModel) -> list[nn.Module]:
    try:
        return list(model.backbone.layers)
    except ModelError:  # a family of its own kind
        return []


def _missing_compiler(device: str) -> str:
    """What inductor lacks on this machine; empty where it lacks nothing."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "Triton was not found: install it"
    if device != "cpu":
        return f"layers are compiled on CPUs and CUDA devices only, not on {device}: train on one of these"
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    wanted = os.environ.get("CXX") or usual
    return "" if shutil.which(wanted) else f"no C++ compiler ('{wanted}') was found: install one, or name it in CXX"


def estimate(loop: StageLoop) -> dict[str, Any]:
    """Whether compiling pays: the trunk's passes of the steps left, timed with the batches of the first one, against
    the seconds of compilation."""
    steps, machine = loop.plan.steps - loop.head_steps, loop.machine
    share = SAVED[machine.device.type][machine.precision.name]
    try:
        a_step = _seconds(loop)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        return record(False, "memory is too small for whole batches")
    saved = steps * a_step * share
    told = f"{steps} steps of {a_step:.3g} s in the trunk save about {saved:.3g} s, and compiling takes {SECONDS:.3g} s"
    return record(saved > SECONDS, told, SECONDS)


class Compiled:
    """The layers of one stage, as a context around its steps in which they are compiled where that was chosen."""

    def __init__(self, loop: StageLoop, record: dict[str, Any]) -> None:
        self.record = record
        self.problems: list[str] = []
        """Why nothing is compiled after all."""
        self._loop, self._model = loop, loop.model
        self._wanted = record["chosen"]
        self._held = ExitStack()

    @property
    def told(self) -> str:
        """For people; empty where nobody asked."""
        if self._loop.stage.torch_compile == "no":
            return ""
        return f"{'yes' if self.record['chosen'] else 'no'}: {self.record['reason']}"

    @property
    def running(self) -> bool:
        """Whether layers that train go by compiled code now."""
        return self._model.compiled

    def __enter__(self) -> Compiled:
        if not self._wanted:
            return self
        from torch._C._dynamo.eval_frame import reset_code

        with ExitStack() as held:
            held.enter_context(_compile_times(self.record))
            held.callback(setattr, self._model, "compiled", False)
            for layer in _layers(self._model):
                vars(layer)["forward"] = chosen = _Layer(layer, self)
                held.callback(vars(layer).pop, "forward")
                # Or a later stage would go by this one's code, and run into torch's limit of variants.
                held.callback(reset_code, chosen.code)
            try:
                self._prove()
            except Exception as error:  # whatever a compiler fails with
                if isinstance(error, HftError) or is_shortage(error):
                    raise
                self.failed(error)
            self._held = held.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._held.close()

    def failed(self, error: Exception) -> None:
        """As `give_up`, after an error of the compiler."""
        text = " ".join(str(error).split())[:200]
        self.give_up(f"compilation failed ({type(error).__name__}: {text})")

    def give_up(self, reason: str) -> None:
        """Go on uncompiled; raises `RunError` where the recipe says that the layers are compiled."""
        self._model.compiled = False
        stage = self._loop.stage
        if stage.torch_compile == "yes":
            raise RunError(f"stage '{stage.name}': torch_compile is 'yes', and {reason}: set it to 'no'")
        self.record |= {"chosen": False, "reason": reason}
        self.problems.append(f"the layers were not compiled: {reason}")

    def _prove(self) -> None:
        """Compile, with a pass of a batch that is compared with one through the layers as they are."""
        self._model.train()
        batch = max(_batches(self._loop), key=lambda batch: batch.inputs["input_ids"].numel())
        plain = _passed(self._loop, batch)
        self._model.compiled = True
        compiled = _passed(self._loop, batch)
        tolerance = TOLERANCES[DTYPES[self._loop.machine.precision.name]]
        hidden, gradients = _off(compiled[:1], plain[:1]), _off(compiled[1:], plain[1:])
        if not max(hidden, gradients) <= tolerance:
            self.give_up(f"compiled layers compute otherwise (by {max(hidden, gradients):.1e} of the largest value)")


class _Layer:
    """What a layer computes: by compiled code while it trains, but for steps whose operations are counted one by one
    (`hft_core.device.flops`): compiled code shows none."""

    def __init__(self, layer: nn.Module, owner: Compiled) -> None:
        self._layer, self._owner, self._plain = layer, owner, layer.forward
        self.code: CodeType = layer.forward.__code__
        self._compiled: Any = torch.compile(layer.forward, dynamic=True, options={"fallback_random": True})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trains = self._owner.running and self._layer.training and torch.is_grad_enabled()
        if not trains or _get_current_dispatch_mode() is not None:
            return self._plain(*args, **kwargs)
        try:
            return self._compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:  # another variant, in the middle of a stage
            self._owner.failed(error)
            return self._plain(*args, **kwargs)


@contextmanager
def _compile_times(record: dict[str, Any]) -> Iterator[None]:
    """Inside, what torch compiles adds its seconds to the record."""
    from torch._dynamo.callback import callback_handler
    from torch._functorch import config

    began = [time.perf_counter()]

    def start(_: object) -> None:
        began[0] = time.perf_counter()

    def end(_: object) -> None:
        record["seconds"] += time.perf_counter() - began[0]

    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        # A backward pass that cannot be compiled is to fail in the pass forward, where another way is open.
        with config.patch(force_non_lazy_backward_lowering=True):
            yield
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)


def _batches(loop: StageLoop) -> list[Batch]:
    return loop.batches(loop.plan.step(0), None)


def _passed(loop: StageLoop, batch: Batch) -> list[Tensor]:
    """The hidden states of a batch, and the gradients of what trains in the trunk of a sum of them with given weights;
    the random numbers that it draws are the same in every call, and draw nothing from those of the run."""
    model, machine = loop.model, loop.machine
    with random_state_kept(machine.device), torch.enable_grad():
        torch.manual_seed(loop.seed)
        with machine.autocast():
            hidden = model.hidden(batch)
        weights = torch.randn(hidden.shape).to(hidden)
        gradients = torch.autograd.grad((hidden * weights).sum(), model.trunk_parameters(), allow_unused=True)
    return [hidden.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _off(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, relative to the largest value."""
    if len(found) != len(wanted):
        return float("inf")
    largest = max((float(tensor.abs().max()) for tensor in wanted), default=0.0)
    off = max((float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)), default=0.0)
    return off / largest if largest else off


def _seconds(loop: StageLoop) -> float:
    """Of the trunk's passes, forward and backward, of one step."""
    loop.model.train()
    batches = _batches(loop)
    found = []
    for _ in range(1 + TIMED):
        began = time.perf_counter()
        for batch in batches:
            _passed(loop, batch)
        if loop.machine.device.type == "cuda":
            torch.cuda.synchronize(loop.machine.device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
