"""Turns: one thread computes at a time, in the order of asking, and each finds its own random numbers again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from hft_core.runtime import random_state, run_lock
from hft_core.runtime.run_lock import Turn

Draws = tuple[float, float, float]
PATIENCE = 20.0
"""Seconds after which a thread that should have ended hangs."""


def draws() -> Draws:
    """One number from each generator of the process."""
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = random_state.snapshot()
    yield
    random_state.restore(*before)
    assert not run_lock._queue, "a turn was not given back"


def together(*functions: Callable[[], object]) -> None:
    """Each function in a thread of its own."""
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
        assert not thread.is_alive(), "a thread waits for a turn that does not come"
    if errors:
        raise errors[0]


def take_one() -> None:
    with Turn(9):
        draws()


def test_a_seeded_turn_draws_the_same_whatever_the_host_drew_and_leaves_the_hosts_numbers_alone() -> None:
    with Turn(3):
        expected = [draws(), draws()]
    random_state.seed(7)
    before = draws()
    random_state.seed(7)
    with Turn(3):
        assert [draws(), draws()] == expected
    assert draws() == before


def test_a_turn_without_a_seed_starts_where_the_host_is_and_is_put_back() -> None:
    random_state.seed(7)
    before = draws()
    random_state.seed(7)
    with Turn():
        assert draws() == before
    assert draws() == before


def test_a_turn_that_is_entered_again_goes_on_where_it_was() -> None:
    with Turn(3):
        expected = [draws() for _ in range(3)]
    turn = Turn(3)
    found = []
    for _ in range(3):
        with turn:
            found.append(draws())
        draws()
    assert found == expected


def test_aside_of_a_turn_the_numbers_are_the_hosts() -> None:
    random_state.seed(5)
    expected = [draws(), draws()]
    random_state.seed(5)
    with Turn(3):
        first = draws()
        with run_lock.aside():
            assert draws() == expected[0]
        second = draws()
    assert draws() == expected[1]
    with Turn(3):
        assert [draws(), draws()] == [first, second]


def test_without_a_turn_aside_and_offer_do_nothing() -> None:
    random_state.seed(5)
    expected = draws()
    random_state.seed(5)
    with run_lock.aside():
        run_lock.offer()
        assert draws() == expected


def test_a_turn_inside_a_turn_does_not_wait_and_keeps_everybodys_numbers() -> None:
    with Turn(1):
        expected = [draws() for _ in range(3)]
    random_state.seed(5)
    of_the_host = [draws() for _ in range(3)]
    random_state.seed(5)
    with Turn(1):
        found = [draws()]
        with Turn(2):
            draws()
            with run_lock.aside():
                assert draws() == of_the_host[0]
        found.append(draws())
        with run_lock.aside():  # an observer that runs hft, whose observers are told
            with Turn(2):
                with run_lock.aside():
                    assert draws() == of_the_host[1]
                draws()
            assert draws() == of_the_host[2]
        found.append(draws())
    assert found == expected


def test_threads_never_compute_together_and_each_has_its_own_numbers() -> None:
    alone = {}
    for seed in range(3):
        with Turn(seed):
            alone[seed] = [draws() for _ in range(30)]
    inside: list[int] = []
    found: dict[int, list[Draws]] = {seed: [] for seed in alone}

    def computing(seed: int) -> None:
        with Turn(seed):
            for _ in range(30):
                inside.append(seed)
                found[seed].append(draws())
                with run_lock.aside():
                    draws()
                    assert inside == [seed]
                    inside.remove(seed)

    random_state.seed(5)
    together(*(lambda seed=seed: computing(seed) for seed in alone))
    assert found == alone
    after = draws()
    random_state.seed(5)
    for _ in range(90):
        draws()
    assert draws() == after


def test_whoever_waits_has_the_next_turn() -> None:
    told: list[str] = []
    begun = threading.Event()

    def long() -> None:
        with Turn(0):
            begun.set()
            while len(run_lock._queue) < 2:
                time.sleep(0.001)
            for _ in range(3):
                told.append("long")
                run_lock.offer()

    def short() -> None:
        assert begun.wait(PATIENCE)
        with Turn(1):
            told.append("short")

    together(long, short)
    assert told == ["long", "short", "long", "long"]


def test_an_error_inside_gives_the_turn_back() -> None:
    with pytest.raises(RuntimeError, match="inside"), Turn(0):
        raise RuntimeError("inside")
    with pytest.raises(RuntimeError, match="aside"), Turn(0), run_lock.aside():
        raise RuntimeError("aside")
    together(take_one)


def test_an_interrupt_while_waiting_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(predicate: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_lock._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), Turn(0):
            pytest.fail("the turn was not waited for")
    assert not run_lock._queue
    together(take_one)


def test_an_interrupt_while_others_have_the_turn_is_raised_when_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = run_lock._wait
    interrupts = iter([True, False])
    begun = threading.Event()

    def once_interrupted() -> None:
        if threading.current_thread() is threading.main_thread() and next(interrupts):
            raise KeyboardInterrupt
        wait()

    def other() -> None:
        assert begun.wait(PATIENCE)
        take_one()

    def offering() -> None:
        with Turn(0):
            begun.set()
            while len(run_lock._queue) < 2:
                time.sleep(0.001)
            monkeypatch.setattr(run_lock, "_wait", once_interrupted)
            run_lock.offer()

    random_state.seed(5)
    expected = draws()
    random_state.seed(5)
    waiting = threading.Thread(target=other, daemon=True)
    waiting.start()
    with pytest.raises(KeyboardInterrupt):
        offering()
    assert draws() == expected
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert list(interrupts) == []


def test_a_function_in_turn_keeps_its_name_and_its_result() -> None:
    @run_lock.in_turn
    def doubled(value: int, *, by: int = 2) -> int:
        """Twice."""
        assert len(run_lock._queue) == 1
        return value * by

    assert (doubled(3), doubled(3, by=3), doubled.__name__, doubled.__doc__) == (6, 9, "doubled", "Twice.")
