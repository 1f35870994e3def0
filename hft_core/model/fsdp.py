"""Shard the trunk's own weights across processes while a stage trains (FSDP2: torch's `fully_shard`).

Each layer of the trunk, and the trunk around them, is unsharded while it computes; each process keeps its shard of
weights, gradients and moments. Heads, and what a strategy adds to the trunk, are small and replicated. Outside of
stages the model is an ordinary one: `divide` at the start of a stage, `Division.undo` at its end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from hft_core.device.machine import Machine
from hft_core.model.hybrid import HybridModel


@dataclass
class Division:
    """What was sharded, and its state before."""

    modules: list[tuple[nn.Module, type[nn.Module]]] = field(default_factory=list)
    """The modules that unshard their weights when they compute, with their original class."""
    held: list[tuple[nn.Module, str, nn.Parameter]] = field(default_factory=list)
    """Each sharded parameter's original (empty meanwhile), with its module and attribute."""
    marks: list[tuple[nn.Module, set[str]]] = field(default_factory=list)
    """Attributes that `fully_shard` left on modules."""

    def undo(self) -> None:
        """Restore the original parameters in every process, with their present values."""
        filled: set[int] = set()
        for module, name, original in self.held:
            divided = getattr(module, name)
            if id(original) not in filled:
                original.data = divided.detach().full_tensor()
                original.requires_grad_(divided.requires_grad)
                filled.add(id(original))
            setattr(module, name, original)
        for module, kind in self.modules:  # torch has no inverse of `fully_shard`
            state: Any = fully_shard.state(module)  # type: ignore[attr-defined]
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            _composable_state._module_state_mapping.pop(module)
            module.__class__ = kind
        for module, names in self.marks:
            for name in names:
                vars(module).pop(name, None)
        self.modules, self.held, self.marks = [], [], []


def divide(model: HybridModel, own: Collection[int], machine: Machine) -> Division:
    """Shard the trunk's own weights across all processes, if the run is sharded; `own`: the ids of the parameters that
    it was opened with.

    What a head shares with the trunk (tied embeddings) is replicated: the head reads it outside of the trunk's passes.
    """
    division = Division()
    if not machine.sharded:
        return division
    trunk = model.trunk
    of_heads = {id(parameter) for parameter in model.heads.parameters()}
    whole = {p for p in trunk.parameters() if id(p) not in own or id(p) in of_heads or p.ndim == 0}
    before = [(module, set(vars(module))) for module in trunk.modules()]
    division.held = [
        (m, name, p) for m in trunk.modules() for name, p in m.named_parameters(recurse=False) if p not in whole
    ]
    mesh = init_device_mesh(machine.device.type, (machine.group.world_size,))
    for module in [*model.backbone.layers, trunk]:
        kind = type(module)
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
        assert isinstance(module, FSDPModule)
        # Losses are divided by the targets of all processes: their gradients are added up, not averaged.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        division.modules.append((module, kind))
    division.marks = [(module, set(vars(module)) - names) for module, names in before]
    for _, _, original in division.held:
        original.data = original.data.new_empty(0)  # its values are in the shards now
    return division


@contextmanager
def put_together(trunk: nn.Module) -> Iterator[None]:
    """Unshard the trunk inside the context: its modules may be called one by one, and each process may make another
    number of passes. Not for training."""
    parts = [module for module in trunk.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)
        # Or the next backward pass would fetch layers in the order of the calls here, which is each process's own.
        for root in parts[:1]:
            root.reset_iter_state()
