"""`hft monitor`: counts of topics and sentiments in a stream of texts, and alerts when negative ones surge."""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from hft_applications.surge import ShareOf, SurgeTest
from hft_core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from hft_core import SavedRun

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
InputOption = Annotated[
    str, typer.Option("--input", metavar="FILE|DIR|-", help="Where the texts come from; -: standard input.")
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Wait for what is added to the file or folder.")]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="F", help="jsonl, csv or txt, of standard input and of a followed file."),
]
WindowOption = Annotated[str, typer.Option("--window", metavar="TIME", help="Length of a window: 90s, 30m, 1h or 1d.")]
TimeOption = Annotated[
    str | None,
    typer.Option("--time", metavar="COLUMN", help="Column with the time (ISO 8601), instead of the time of arrival."),
]
TopicOption = Annotated[str, typer.Option("--topic", metavar="TASK", help="The task that tells the topic.")]
SentimentOption = Annotated[str, typer.Option("--sentiment", metavar="TASK", help="The task that tells the sentiment.")]
NegativeOption = Annotated[
    str, typer.Option("--negative", metavar="LABEL", help="The sentiment whose surges are told.")
]
ShareOption = Annotated[
    ShareOf,
    typer.Option("--share-of", help="Compare negative texts on a topic as a share of all texts, or of those on it."),
]
BeforeOption = Annotated[
    int, typer.Option("--before", metavar="N", min=1, help="How many windows a window is compared with.")
]
AlarmsOption = Annotated[
    float,
    typer.Option("--false-alarms", metavar="RATE", help="Largest chance of an alert where nothing has changed."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="Add the lines to this file, not standard output.")
]
RejectsOption = Annotated[
    Path | None,
    typer.Option("--rejects", metavar="FILE", help="Add rows that cannot be used to this file, instead of ending."),
]


def monitor(
    ctx: typer.Context,
    run: RunArgument,
    input: InputOption = "-",
    follow: FollowOption = False,
    format: FormatOption = None,
    window: WindowOption = "1h",
    time: TimeOption = None,
    topic: TopicOption = "topic",
    sentiment: SentimentOption = "sentiment",
    negative: NegativeOption = "negative",
    share_of: ShareOption = ShareOf.ALL,
    before: BeforeOption = 24,
    false_alarms: AlarmsOption = 0.01,
    output: OutputOption = None,
    rejects: RejectsOption = None,
) -> None:
    """Watch opinions: count a stream of texts by topic and sentiment, and tell surges of negative ones.

    Writes a line of JSON for each window and each surge; surges are also told on standard error.
    """
    length = _duration(window)
    if not 0 < false_alarms < 1:
        raise UsageError(f"--false-alarms {false_alarms}: expected a number between 0 and 1")
    from hft_applications import stream, watch
    from hft_core import open_run

    rows = stream.arrivals(input, format=format, follow=follow)
    saved = open_run(run, ctx.obj.catalogue, merge=True)
    topics, sentiments = (_labels(saved, task) for task in (topic, sentiment))
    if negative not in sentiments:
        raise UsageError(f"--negative: '{sentiment}' has no label '{negative}'.{did_you_mean(negative, sentiments)}")
    column = watch.text_column(saved, (topic, sentiment))
    test = SurgeTest(topics, negative, share_of=share_of, rate=false_alarms, before=before)
    with ExitStack() as files:
        refused, written = (_appending(files, path, name) for path, name in ((rejects, "rejects"), (output, "output")))
        timed = watch.usable(rows, column, time, refused)
        if time is not None and not follow and input != "-":
            timed = iter(sorted(timed, key=lambda row: row.time))  # a finished file may be in any order
        answers = watch.answers(saved, (topic, sentiment), column, stream.at_once(timed), ticking=time is None)
        watch.watch(answers, length, test, written)


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    if found is None:
        raise UsageError(f"--window {text}: expected a whole number and a unit: 90s, 30m, 1h, 1d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])


def _labels(saved: SavedRun, task: str) -> list[str]:
    """Return the labels of a task. Raises `UsageError` if it is none of the run's, or has none."""
    heads = saved.model.heads
    if task not in heads:
        raise UsageError(f"the run has no task '{task}'; see --topic and --sentiment.{did_you_mean(task, heads)}")
    labels = saved.model.head(task).facts.get("labels")
    if not labels:
        raise UsageError(f"task '{task}': expected a task with labels (classification), to count texts by")
    return list(labels)


def _appending(files: ExitStack, path: Path | None, option: str) -> TextIO | None:
    try:
        return None if path is None else files.enter_context(path.open("a", encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--{option} {path}: cannot be written to: {error.strerror}") from error
