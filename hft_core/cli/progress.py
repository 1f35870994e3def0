"""Show the progress of a run: bars on a terminal, plain lines elsewhere. An ordinary observer.

Writes to standard error, so that standard output has results only; a host program may pass its own console.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hft_core.cli.terminal import plain, say_error
from hft_core.hooks import hookimpl

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, Task

    from hft_core import events
    from hft_core.results import StageResult

LINES_A_STAGE = 10
"""Progress lines of a stage where there is no terminal."""


class Lines:
    """Writes plain lines: start and end of each stage, about `LINES_A_STAGE` in between, and each evaluation."""

    def __init__(self, write: Callable[[str], None] = say_error) -> None:
        """`write`: called with each line, for instance a logger's `info`."""
        self.write: Callable[[str], None] = lambda text: write(plain(text))
        self._since = time.perf_counter()
        self._rows = self._tokens = self._resumed_at = 0

    @hookimpl
    def hft_run_started(self, event: events.RunStarted) -> None:
        self.write(f"{event.device}, {event.precision}: {event.precision_reason}")
        if event.folder is not None:
            self.write(f"writing {event.folder}")

    @hookimpl
    def hft_stage_started(self, event: events.StageStarted) -> None:
        self._since, self._rows, self._tokens, self._resumed_at = time.perf_counter(), 0, 0, event.step
        self.write(
            f"stage {event.index + 1}/{event.stages} {event.name}: {', '.join(event.tasks)}; "
            f"strategy {event.strategy or 'none (all parameters)'}, combiner {event.combiner or 'none (sum)'}; "
            f"{event.steps} steps of {event.train_batch_size} rows; trainable: {event.trainable:,} of {event.trunk:,} "
            f"parameters of the trunk ({event.trainable / event.trunk:.2%}) and {event.heads:,} of heads"
        )
        if event.frozen_layers:
            self.write(f"{event.frozen_layers} layers are frozen; cached activations: {event.stored}")
        if event.compiled:
            self.write(f"compiled layers: {event.compiled}")

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        self._rows += event.rows
        self._tokens += event.tokens
        if event.skipped:
            self.write(f"step {event.step} skipped: {event.skipped}")
        if self.shows(event):
            self.show(event)

    @hookimpl
    def hft_noticed(self, event: events.Noticed) -> None:
        self.write(f"{event.stage}, step {event.step}: {event.text}")

    @hookimpl
    def hft_evaluation_started(self, event: events.EvaluationStarted) -> None:
        if event.split == "test":  # what follows the last step, and may take long
            self.write(f"scoring {event.split}: {', '.join(event.tasks)}")

    @hookimpl
    def hft_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        self.write(f"{event.stage}, step {event.step}, {event.split}: {scores_text(event.scores)}")

    @hookimpl
    def hft_stage_finished(self, event: events.StageFinished) -> None:
        self.write(f"{event.result.name} done: {changes_text(event.result)}")
        for warning in event.result.warnings:
            self.write(f"warning: {warning}")

    def shows(self, event: events.StepFinished) -> bool:
        """Return whether this step gets a line."""
        return event.step % max(1, event.steps // LINES_A_STAGE) == 0

    def show(self, event: events.StepFinished) -> None:
        left = clock(self._seconds_left(event))
        self.write(
            f"{event.stage} {event.step}/{event.steps}: {losses_text(event.losses)}; {self.rates()}, {left} left"
        )

    def _seconds_left(self, event: events.StepFinished) -> float:
        """Estimate the seconds until the stage's last step from those since it began or was resumed."""
        done = event.step - self._resumed_at
        return (time.perf_counter() - self._since) / done * (event.steps - event.step)

    def rates(self) -> str:
        """Format rows and tokens per second since the stage began."""
        seconds = max(time.perf_counter() - self._since, 1e-9)
        return f"{self._rows / seconds:.0f} rows/s, {self._tokens / seconds:.0f} tokens/s"

    def close(self) -> None:
        """Release the terminal; nothing to do for lines."""


class Bars(Lines):
    """Draws a progress bar for each stage, with losses, throughput and remaining time."""

    def __init__(self, console: Console | None = None) -> None:
        """`console`: where to draw, standard error by default."""
        super().__init__(self._print)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = console or Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _elapsed_column(),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self._progress = Progress(*columns, console=self._console)
        self._progress.start()
        self._bar: Any = None

    @hookimpl
    def hft_stage_started(self, event: events.StageStarted) -> None:
        super().hft_stage_started(event)
        if self._bar is not None:
            self._progress.stop_task(self._bar)
        self._bar = self._progress.add_task(plain(event.name), total=event.steps, facts="")

    def shows(self, event: events.StepFinished) -> bool:
        return True

    def show(self, event: events.StepFinished) -> None:
        facts = f"{clock(self._seconds_left(event))} left  {losses_text(event.losses)}  {self.rates()}"
        self._progress.update(self._bar, completed=event.step, facts=facts)

    @hookimpl
    def hft_evaluation_started(self, event: events.EvaluationStarted) -> None:
        self._say(f"scoring {event.split} …")

    @hookimpl
    def hft_evaluation_finished(self, event: events.EvaluationFinished) -> None:
        super().hft_evaluation_finished(event)
        self._say("saving the model …" if event.split == "test" else "")

    @hookimpl
    def hft_run_finished(self, event: events.RunFinished) -> None:
        self._say("done")

    def _say(self, doing: str) -> None:
        """Show beside the bar what happens between steps."""
        if self._bar is not None:
            self._progress.update(self._bar, facts=doing)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._progress.stop()


def _elapsed_column() -> ProgressColumn:
    """Return a column with the time since the stage began, which runs on while something is scored after its steps."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Elapsed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{clock(task.elapsed or 0.0)} elapsed")

    return Elapsed()


def observer() -> Lines:
    """Return `Bars` on a terminal, and else `Lines`."""
    return Bars() if sys.stderr.isatty() else Lines()


def losses_text(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items())


def scores_text(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Format all metrics except weighted averages, which results.json has."""
    return "; ".join(
        f"{task} "
        + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if not name.endswith("_weighted"))
        for task, metrics in scores.items()
    )


def changes_text(result: StageResult) -> str:
    """Format each task's main metric on its dev split, before and after the stage."""
    parts = []
    for task, metric in result.main_metrics.items():
        was = f"{result.before[task][metric]:.4g} → " if task in result.before else ""
        parts.append(f"{task} {metric} {was}{result.after[task][metric]:.4g}")
    return ", ".join(parts) or "no dev split to score"


def clock(seconds: float) -> str:
    """`m:ss`"""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
