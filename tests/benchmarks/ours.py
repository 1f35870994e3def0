"""What hft does with a workload, measured from its own events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import workload

import hft_core
from hft_core import hookimpl
from hft_core.events import StepFinished


class Watch:
    """The rows and the wall-clock time between the end of the warm-up steps and the end of the last step."""

    def __init__(self, skip: int) -> None:
        self.skip, self.steps, self.rows, self.tokens = skip, 0, 0, 0
        self.began = self.ended = 0.0

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        self.steps += 1
        self.ended = time.perf_counter()
        if self.steps == self.skip:
            self.began = self.ended
        elif self.steps > self.skip:
            self.rows += event.rows
            self.tokens += event.tokens

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / (self.ended - self.began)

    @property
    def token_rate(self) -> float:
        """Real tokens a second: of few steps, some have longer rows than others."""
        return self.tokens / (self.ended - self.began)


def trained(
    tasks: Mapping[str, list[dict[str, str]]], steps: int, *, skip: int = 3, precision: str = "auto", **stage: Any
) -> tuple[Watch, hft_core.RunResult]:
    """Train for `steps` steps after `skip` that do not count."""
    chosen, data = workload.recipe(dict(tasks), steps + skip, **stage)
    watch = Watch(skip)
    result = hft_core.run({**chosen, "precision": precision}, data=data, observers=[watch])
    return watch, result
