"""The queue in front of the model: what is computed together, what is refused, and what an error touches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from hft_core.serve.batcher import Batcher, Job
from hft_core.serve.errors import Refused


class Gated:
    """A computation that waits to be let through, and records its batches."""

    def __init__(self) -> None:
        self.gate, self.begun, self.batches = threading.Event(), threading.Event(), list[list[Any]]()

    def __call__(self, jobs: Sequence[Job]) -> list[Any]:
        self.begun.set()
        self.gate.wait(10)
        self.batches.append([job.work for job in jobs])
        if any(job.work == "bad" for job in jobs):
            raise ValueError("one row is bad")
        return [ValueError("its own") if job.work == "own" else f"{job.work}!" for job in jobs]


def batcher(**settings: Any) -> Batcher:
    given: dict[str, Any] = {"batch_rows": 4, "queued_rows": 6, "wait_s": 0.0, "observe": lambda jobs, rows: None}
    return Batcher(**given | settings)


def test_requests_that_wait_are_computed_together_up_to_the_rows_of_a_batch() -> None:
    compute, queue = Gated(), batcher()
    first = queue.submit(Job("a", 1, compute, "first"))
    assert compute.begun.wait(10)
    rest = [queue.submit(Job(key, rows, compute, work)) for key, rows, work in (("a", 1, 1), ("b", 1, 2), ("a", 3, 3))]
    alone = queue.submit(Job(None, 1, compute, "alone"))
    compute.gate.set()
    assert [future.result(10) for future in (first, *rest, alone)] == ["first!", "1!", "2!", "3!", "alone!"]
    assert compute.batches == [["first"], [1, 3], [2], ["alone"]]
    assert queue.close(10)


def test_a_full_queue_refuses_and_a_closed_one_finishes_what_it_took() -> None:
    compute, queue = Gated(), batcher()
    queue.submit(Job("a", 1, compute, 0))
    assert compute.begun.wait(10)
    waiting = queue.submit(Job("a", 6, compute, 1))
    assert queue.waiting_rows == 6
    with pytest.raises(Refused) as full:
        queue.submit(Job("a", 1, compute, 2))
    assert full.value.status == 429
    closer = threading.Thread(target=queue.close, args=(10,))
    closer.start()
    while not queue._closing:
        pass
    with pytest.raises(Refused) as closed:
        queue.submit(Job("a", 1, compute, 3))
    assert closed.value.status == 503
    compute.gate.set()
    assert waiting.result(10) == "1!"
    closer.join(10)


def test_the_fault_of_one_request_is_not_that_of_another_and_one_that_was_given_up_is_not_computed() -> None:
    compute, queue = Gated(), batcher()
    queue.submit(Job("a", 1, compute, 0))
    assert compute.begun.wait(10)
    good, bad, own, gone = (queue.submit(Job("a", 1, compute, work)) for work in ("good", "bad", "own", "gone"))
    gone.cancel()
    compute.gate.set()
    assert good.result(10) == "good!"
    for future in (bad, own):
        with pytest.raises(ValueError, match=r"one row is bad|its own"):
            future.result(10)
    assert "gone" not in [work for batch in compute.batches for work in batch]
    assert queue.close(10)
