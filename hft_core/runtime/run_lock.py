"""Runs that share a process take turns: one computes, the others wait, and each finds its own random numbers again.

Two runs in two threads cannot compute at once and stay what they are alone. Dropout draws from torch's one generator of
the process, which takes no other; transformers and PEFT make modules under patches of `torch.nn.Module` that a second
thread sees too (its weights end up on the `meta` device); autocast's cache, the warning filters and transformers'
verbosity belong to the process as well. So whatever computes holds the turn, and hands it on wherever a run has told
its observers something, that is at least once a step, in the order of asking.

A turn is also the boundary to the host: outside one, and while observers are told, the generators of Python, numpy,
torch and the devices are in the state in which the host left them. What a host draws in another thread *during* a turn
is beyond reach.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from hft_core.runtime import random_state
from hft_core.runtime.random_state import Snapshot

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_changed = threading.Condition()
_queue: deque[int] = deque()
"""The threads that want the turn, by ident; the first has it."""


class _Held(threading.local):
    """The turns that this thread is in, the innermost last."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []


_held = _Held()


class Turn:
    """The right to compute, as a context; entered again, it goes on with the random numbers of the last time.

    A thread that is in a turn may enter another (a head that opens the run of its teacher); the outer one then waits.
    """

    def __init__(self, seed: int | None = None) -> None:
        """`seed`: of the generators at the first time; without one they start from where they are."""
        self._seed = seed
        self._own: Snapshot | None = None
        self._outside: Snapshot | None = None

    def __enter__(self) -> Turn:
        if not _held.turns:
            _wait()
        _held.turns.append(self)
        self._take_up()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._put_away()
        finally:
            if self in _held.turns:
                _held.turns.remove(self)
            if not _held.turns:
                _leave()

    @property
    def _active(self) -> bool:
        """Whether the generators are in this turn's state."""
        return self._outside is not None

    def _take_up(self) -> None:
        self._outside = random_state.snapshot()
        if self._own is not None:
            random_state.restore(*self._own)
        elif self._seed is not None:
            random_state.seed(self._seed)

    def _put_away(self) -> None:
        if self._outside is not None:
            self._own = random_state.snapshot()
            outside, self._outside = self._outside, None
            random_state.restore(*outside)


@contextmanager
def aside() -> Iterator[None]:
    """Inside, the random state is the host's; at the end, those who wait have the turn before this thread goes on."""
    active = [turn for turn in _held.turns if turn._active]
    for turn in reversed(active):
        turn._put_away()
    try:
        yield
    finally:
        try:
            _hand_on()
        finally:
            for turn in active:
                turn._take_up()


def offer() -> None:
    """Let those compute who wait by now. Cheap where nobody does: for every long loop."""
    if len(_queue) > 1:
        with aside():
            pass


def in_turn(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, computing in a turn of its own."""

    @wraps(function)
    def waiting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with Turn():
            return function(*args, **kwargs)

    return waiting


def _hand_on() -> None:
    """Give the turn to those who wait, and wait for it again."""
    turns = _held.turns
    if not turns or len(_queue) < 2:
        return
    try:
        _held.turns = []
        _leave()
    finally:
        _take_back(turns)


def _take_back(turns: list[Turn]) -> None:
    """Wait for the turn. What surrounds expects it, so that an interrupt meanwhile is raised only then."""
    interrupt: BaseException | None = None
    while not _held.turns:
        try:
            _wait()
            _held.turns = turns
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _wait() -> None:
    me = threading.get_ident()
    with _changed:
        if me not in _queue:  # it is where an interrupt kept this thread from leaving
            _queue.append(me)
        try:
            _changed.wait_for(lambda: _queue[0] == me)
        except BaseException:
            _queue.remove(me)
            _changed.notify_all()
            raise


def _leave() -> None:
    me = threading.get_ident()
    with _changed:
        if me in _queue:
            _queue.remove(me)
        _changed.notify_all()
