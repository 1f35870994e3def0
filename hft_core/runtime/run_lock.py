"""Let one run of a process compute at a time, with a random state of its own.

Two runs cannot compute in two threads at once and give what they give alone. Dropout draws from torch's one generator
of the process; transformers and PEFT build modules under patches of `torch.nn.Module` that other threads see (weights
end up on the `meta` device); autocast's cache, warning filters and transformers' verbosity belong to the process too.
So code that computes holds one re-entrant lock, and other threads wait for it.

The lock is also the boundary to the host's random state: outside of it, and while observers are called, the generators
of Python, numpy, torch and the devices are as the host left them. Numbers that a host draws in another thread *while*
the lock is held are beyond control.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from hft_core.runtime import random_state
from hft_core.runtime.random_state import Snapshot

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_lock = threading.RLock()


class _Entered(threading.local):
    """The run locks that this thread has entered, the innermost last."""

    def __init__(self) -> None:
        self.locks: list[RunLock] = []


_entered = _Entered()


class RunLock:
    """Hold the process's one lock for computing, with a random state of its own, as a context.

    Entered again, it continues with the random state of the last time. A thread may enter several, one inside another.
    """

    def __init__(self, seed: int | None = None) -> None:
        """`seed`: of the generators when first entered; None: they continue from the state found there."""
        self._seed = seed
        self._own: Snapshot | None = None
        self._outer: Snapshot | None = None

    def __enter__(self) -> RunLock:
        _lock.acquire()
        try:
            self._swap_in()
            _entered.locks.append(self)
        except BaseException:  # an interrupt
            self._swap_out()
            _lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            _entered.locks.pop()
            self._swap_out()
        finally:
            _lock.release()

    def _swap_in(self) -> None:
        self._outer = random_state.snapshot()
        if self._own is not None:
            random_state.restore(*self._own)
        elif self._seed is not None:
            random_state.seed(self._seed)

    def _swap_out(self) -> None:
        if self._outer is not None:
            self._own = random_state.snapshot()
            outer, self._outer = self._outer, None
            random_state.restore(*outer)


@contextmanager
def host_random_state() -> Iterator[None]:
    """Give the generators the host's state inside, for calling the host's code; does nothing without a lock."""
    inside = [lock for lock in _entered.locks if lock._outer is not None]
    for lock in reversed(inside):
        lock._swap_out()
    try:
        yield
    finally:
        for lock in inside:
            lock._swap_in()


def exclusive(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wrap `function` so that it computes under a `RunLock` of its own."""

    @wraps(function)
    def locked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with RunLock():
            return function(*args, **kwargs)

    return locked
