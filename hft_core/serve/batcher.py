"""Compute requests in one thread, those that are alike together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hft_core.serve.errors import Refused


@dataclass(eq=False)
class Job:
    """One request, waiting for the model."""

    key: Hashable
    """Jobs with equal keys may be computed together; None: alone."""
    rows: int
    compute: Callable[[Sequence[Job]], Sequence[Any]]
    """Returns a result for each of the jobs that it is given (an `Exception` for one that failed)."""
    work: Any
    """What `compute` reads."""
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """A queue of jobs and the one thread that computes them.

    The adapters of a model are routed by a state of the model, so that two threads could not use it at once; and on a
    CPU one pass over many rows is quicker than many passes. While a batch is computed, others queue up and become the
    next one, so that nobody waits for a batch to fill while the thread is idle. Only after a batch of several jobs,
    whose clients may be about to ask again, it waits for up to `wait_s`.
    """

    def __init__(
        self, *, batch_rows: int, queued_rows: int, wait_s: float, observe: Callable[[int, int], None]
    ) -> None:
        """`observe` is told the jobs and rows of each batch."""
        self._batch_rows, self._queued_rows, self._wait_s, self._observe = batch_rows, queued_rows, wait_s, observe
        self._jobs: deque[Job] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="hft-serve-model", daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self._rows

    def submit(self, job: Job) -> Future[Any]:
        """Queue a job. Raises `Refused` when the queue is full (429) or closed (503)."""
        with self._changed:
            if self._closing:
                raise Refused(503, "the service is stopping")
            if self._rows + job.rows > self._queued_rows:
                raise Refused(429, f"{self._rows} rows wait for the model, at most {self._queued_rows} may: try later")
            self._jobs.append(job)
            self._rows += job.rows
            self._changed.notify()
        return job.future

    def close(self, seconds: float) -> bool:
        """Accept nothing more and compute what waits; return whether all was computed within `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        several = False
        while True:
            with self._changed:
                while not self._jobs and not self._closing:
                    self._changed.wait()
                if not self._jobs:
                    return
                if several:
                    self._fill()
                batch = self._take()
            several = len(batch) > 1
            batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if batch:
                self._compute(batch)

    def _fill(self) -> None:
        """Wait until a batch is full, or for `wait_s`."""
        end = time.monotonic() + self._wait_s
        while self._rows < self._batch_rows and not self._closing and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    def _take(self) -> list[Job]:
        """Take the first job, and those behind it that fit into a batch with it."""
        first = self._jobs.popleft()
        taken, left, rows = [first], deque[Job](), first.rows
        for job in self._jobs:
            if first.key is not None and job.key == first.key and rows + job.rows <= self._batch_rows:
                taken.append(job)
                rows += job.rows
            else:
                left.append(job)
        self._jobs = left
        self._rows -= rows
        return taken

    def _compute(self, batch: Sequence[Job]) -> None:
        self._observe(len(batch), sum(job.rows for job in batch))
        try:
            results = batch[0].compute(batch)
        except Exception as error:  # whatever a plugin raises is the answer, and not the end of the thread
            if len(batch) > 1:  # the fault of one job must not be that of the others
                for job in batch:
                    self._compute([job])
                return
            results = [error]
        for job, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
