"""One thread computes at a time, each run with its own random state."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hft_core.runtime import random_state, run_lock
from hft_core.runtime.run_lock import RunLock

Draws = tuple[float, float, float]
PATIENCE = 60.0
"""Seconds after which a thread that should have ended hangs."""


def draws() -> Draws:
    """One number from each generator of the process."""
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = random_state.snapshot()
    yield
    random_state.restore(*before)
    together(compute_once)


def together(*functions: Callable[[], object]) -> None:
    """Call each function in a thread of its own."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[f], daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread waits for a lock that is never released"
    if errors:
        raise errors[0]


def compute_once() -> None:
    with RunLock(9):
        draws()


def test_a_seeded_lock_draws_the_same_whatever_the_host_drew_and_restores_the_hosts_state() -> None:
    with RunLock(3):
        expected = [draws(), draws()]
    random_state.seed(7)
    before = draws()
    random_state.seed(7)
    with RunLock(3):
        assert [draws(), draws()] == expected
    assert draws() == before


def test_a_lock_without_a_seed_starts_from_the_hosts_state_and_restores_it() -> None:
    random_state.seed(7)
    before = draws()
    random_state.seed(7)
    with RunLock():
        assert draws() == before
    assert draws() == before


def test_a_lock_that_is_entered_again_continues_with_its_random_state() -> None:
    with RunLock(3):
        expected = [draws() for _ in range(3)]
    lock = RunLock(3)
    found = []
    for _ in range(3):
        with lock:
            found.append(draws())
        draws()
    assert found == expected


def test_the_hosts_code_is_called_with_the_hosts_state() -> None:
    random_state.seed(5)
    expected = [draws(), draws()]
    random_state.seed(5)
    with RunLock(3):
        first = draws()
        with run_lock.host_random_state():
            assert draws() == expected[0]
        second = draws()
    assert draws() == expected[1]
    with RunLock(3):
        assert [draws(), draws()] == [first, second]


def test_without_a_lock_the_state_is_the_hosts_already() -> None:
    random_state.seed(5)
    expected = draws()
    random_state.seed(5)
    with run_lock.host_random_state():
        assert draws() == expected


def test_a_lock_inside_a_lock_does_not_wait_and_keeps_all_states_apart() -> None:
    with RunLock(1):
        expected = [draws() for _ in range(3)]
    random_state.seed(5)
    of_the_host = [draws() for _ in range(3)]
    random_state.seed(5)
    with RunLock(1):
        found = [draws()]
        with RunLock(2):
            draws()
            with run_lock.host_random_state():
                assert draws() == of_the_host[0]
        found.append(draws())
        with run_lock.host_random_state():  # an observer that runs hft, whose observers are called
            with RunLock(2):
                with run_lock.host_random_state():
                    assert draws() == of_the_host[1]
                draws()
            assert draws() == of_the_host[2]
        found.append(draws())
    assert found == expected


def test_threads_never_compute_at_once_and_each_draws_what_it_draws_alone() -> None:
    alone = {}
    for seed in range(3):
        with RunLock(seed):
            alone[seed] = [draws() for _ in range(30)]
    inside: list[int] = []
    found: dict[int, list[Draws]] = {seed: [] for seed in alone}

    def compute(seed: int) -> None:
        lock = RunLock(seed)
        for _ in range(3):  # as a session does, stage by stage
            with lock:
                inside.append(seed)
                for _ in range(10):
                    found[seed].append(draws())
                    with run_lock.host_random_state():
                        draws()
                    assert inside == [seed]
                inside.remove(seed)

    random_state.seed(5)
    together(*(lambda seed=seed: compute(seed) for seed in alone))
    assert found == alone
    after = draws()
    random_state.seed(5)
    for _ in range(90):
        draws()
    assert draws() == after


def test_an_error_inside_releases_the_lock() -> None:
    random_state.seed(5)
    expected = draws()
    random_state.seed(5)
    with pytest.raises(RuntimeError, match="inside"), RunLock(0):
        raise RuntimeError("inside")
    with pytest.raises(RuntimeError, match="observer"), RunLock(0), run_lock.host_random_state():
        raise RuntimeError("observer")
    together(compute_once)
    assert draws() == expected


def test_an_interrupt_ends_the_wait_for_the_lock() -> None:
    """Ctrl-C while another thread computes."""
    computing, done = threading.Event(), threading.Event()

    def compute() -> None:
        with RunLock(0):
            computing.set()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            assert done.wait(PATIENCE)

    random_state.seed(5)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores SIGINT
    other = threading.Thread(target=compute, daemon=True)
    other.start()
    assert computing.wait(PATIENCE)
    try:
        with pytest.raises(KeyboardInterrupt), RunLock(1):
            pytest.fail("the lock was free")
    finally:
        signal.signal(signal.SIGINT, before)
    done.set()
    other.join(PATIENCE)
    assert not other.is_alive()


def test_an_interrupt_while_the_state_is_swapped_releases_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(value: int) -> None:
        raise KeyboardInterrupt

    random_state.seed(5)
    expected = draws()
    random_state.seed(5)
    with monkeypatch.context() as patch:
        patch.setattr(random_state, "seed", interrupted)
        with pytest.raises(KeyboardInterrupt), RunLock(1):
            pytest.fail("the lock was entered")
    together(compute_once)
    assert draws() == expected


def test_an_exclusive_function_keeps_its_name_and_its_result() -> None:
    @run_lock.exclusive
    def doubled(value: int, *, by: int = 2) -> int:
        """Twice."""
        return value * by

    assert (doubled(3), doubled(3, by=3), doubled.__name__, doubled.__doc__) == (6, 9, "doubled", "Twice.")
