"""Record which tensors a computation would allocate and free, without computing or allocating them.

Tensors that depend on the model's weights have a shape and no values (torch's `FakeTensor`). What is computed from the
ids, masks and labels of a batch alone is computed, so that a model may decide by it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST_COMPUTED = 1 << 20
"""Values of the largest tensor that is computed."""


@dataclass(frozen=True)
class Event:
    """One block of memory was allocated, or freed."""

    block: int
    """Its number."""
    size: int
    """Bytes; 0 where it was freed."""
    backward: bool
    """In a backward pass."""
    graph: bool = True
    """Of an operation that autograd records: it makes small objects that stay until the backward pass."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record allocations of everything that is computed inside."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self._fake = fake
        self._blocks: dict[int, int] = {}
        """Numbers of the blocks that are alive, by address of their storage; 0 for those that were there before."""
        self._count = 0

    def know(self, tensors: Sequence[Tensor]) -> None:
        """Leave out tensors that are there before."""
        self._blocks |= {tensor.untyped_storage()._cdata: 0 for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if _has_known_values(func, args, kwargs):
            result = func(*args, **kwargs)
        else:
            if func is torch.ops.aten.index.Tensor:  # a mask would make the shape of the result unknown
                args = (args[0], _as_numbers(args[1]))
            with self._fake:
                result = func(*args, **kwargs)
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        for value in tree_leaves(result):
            self._see(value, graph)
        return result

    def _see(self, value: object, graph: bool) -> None:
        if not isinstance(value, Tensor):
            return
        storage = value.untyped_storage()
        address = storage._cdata
        if address in self._blocks:
            return
        self._count += 1
        self._blocks[address] = self._count
        self.events.append(Event(self._count, storage.nbytes(), _in_backward(), graph))
        weakref.finalize(storage, self._freed, address).atexit = False

    def _freed(self, address: int) -> None:
        self.events.append(Event(self._blocks.pop(address), 0, _in_backward()))


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


def _has_known_values(func: Any, args: object, kwargs: Mapping[str, Any]) -> bool:
    """Tell whether the operation is one of whole numbers that are known, and not of many."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not given:
        return func.overloadpacket is torch.ops.aten.arange
    return not any(
        isinstance(tensor, FakeTensor) or tensor.is_floating_point() or tensor.numel() > MOST_COMPUTED
        for tensor in given
    )


def _as_numbers(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return indices with the places where a known mask is true instead of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype is torch.bool and not isinstance(index, FakeTensor):
            found += index.nonzero(as_tuple=True)
        else:
            found.append(index)
    return found
