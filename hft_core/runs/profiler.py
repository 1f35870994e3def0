"""Profile a few steps of each stage, without changing what is computed.

`trace.json` is torch's trace in Chrome's format (open it in https://ui.perfetto.dev), `table.md` says where the time
went, by part of the step and by operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hft_core import events
from hft_core.device.clock import PARTS, RANGE
from hft_core.hooks import hookimpl
from hft_core.runtime.files import write_text
from hft_core.runtime.run_folder import RunFolder

TRACE_FILE, TABLE_FILE = "trace.json", "table.md"
WARM_STEPS, STEPS = 3, 5
"""Steps that are left out while memory and kernels settle, and steps that are profiled after them."""
OPERATIONS = 30
"""Operations that the table names."""


class StepProfiler:
    """An observer that profiles steps `WARM_STEPS` to `WARM_STEPS + STEPS` after the trunk began to train, of each
    stage; of a shorter stage, its last ones.

    The profile of a single stage is written to `profile/`, those of several to a subfolder each.
    """

    def __init__(self, run: Path) -> None:
        """`run`: the folder of the run."""
        self.folder = RunFolder(run).profile
        self._place, self._first, self._last = self.folder, 0, 0
        self._running: profile | None = None
        self._on_gpu = False

    @hookimpl
    def hft_run_started(self, event: events.RunStarted) -> None:
        self._on_gpu = event.device.startswith("cuda")

    @hookimpl
    def hft_stage_started(self, event: events.StageStarted) -> None:
        self._place = self.folder if event.stages == 1 else self.folder / f"{event.index + 1}-{event.name}"
        wanted = max(event.head_warmup_steps, event.step) + WARM_STEPS
        self._first = max(event.step, min(wanted, event.steps - STEPS))
        self._last = self._first + STEPS
        if self._first == event.step:
            self._start()

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        if event.step == self._last:
            self._finish()
        if event.step == self._first:
            self._start()

    @hookimpl
    def hft_evaluation_started(self) -> None:
        self._finish()  # an evaluation is not part of a step

    @hookimpl
    def hft_stage_finished(self) -> None:
        self._finish()

    @hookimpl
    def hft_run_failed(self) -> None:
        self._finish()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._running = profile(activities=activities, acc_events=True)
        self._running.start()

    def _finish(self) -> None:
        """Stop profiling and write the profile, if one is running."""
        running, self._running = self._running, None
        if running is None:
            return
        if self._on_gpu:
            torch.cuda.synchronize()
        running.stop()
        self._place.mkdir(parents=True, exist_ok=True)
        running.export_chrome_trace(str(self._place / TRACE_FILE))
        write_text(self._place / TABLE_FILE, table(running.key_averages(), on_gpu=self._on_gpu))


def table(averages: Sequence[Any], *, on_gpu: bool) -> str:
    """Return a Markdown table of time by part of the step, and by operation without what it called."""
    time = "device_time_total" if on_gpu else "cpu_time_total"
    own = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = {each.key.removeprefix(RANGE): each for each in averages if each.key.startswith(RANGE)}
    parts = [(part, found[part].count, getattr(found[part], time)) for part in PARTS if part in found]
    names = [each for each in averages if not each.key.startswith(RANGE)]
    operations = [(f"`{each.key}`", each.count, getattr(each, own)) for each in names]
    operations.sort(key=lambda row: -row[2])
    where = "GPU" if on_gpu else "CPU"
    return (
        f"# Where the time went\n\n## By part of the step ({where} time)\n\n{_rows('part', 'times', parts)}"
        f"\n## By operation (own {where} time, without what it called)\n\n"
        f"{_rows('operation', 'calls', operations, shown=OPERATIONS)}"
    )


def _rows(what: str, count: str, rows: Sequence[tuple[str, int, float]], shown: int | None = None) -> str:
    total = sum(microseconds for _, _, microseconds in rows) or 1.0
    lines: Iterable[str] = (
        f"| {name} | {times} | {microseconds / 1e3:.2f} | {microseconds / total:.1%} |"
        for name, times, microseconds in rows[:shown]
    )
    return "\n".join([f"| {what} | {count} | ms | share |", "| --- | --- | --- | --- |", *lines]) + "\n"
