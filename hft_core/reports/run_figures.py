"""Show how a run went: scores, losses, rates, weights and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hft_core.reports.charts import Point, dot_plot, line_chart, thinned
from hft_core.reports.markup import Content, Markup, figure, joined, legend, number_text, table, tag
from hft_core.reports.record import Record, Step

Series = dict[str, list[Point]]


def summary(record: Record) -> Markup:
    """The scores of each task, with what an answer that ignores the text would score."""
    floors = record.results.get("floors", {})
    rows = []
    for task, metric in record.tasks.items():
        floor = next((floors[s][task]["value"] for s in ("test", "dev") if task in floors.get(s, {})), None)
        rows.append((task, metric, _first(record, task), record.score("dev", task), record.score("test", task), floor))
    headings = ("task", "metric", "dev before", "dev", "test", "ignoring the text")
    return joined([table(headings, rows, caption="Scores"), warnings(record)])


def warnings(record: Record) -> Markup | None:
    """What the run warned of, and what its stages did."""
    told = [*record.results.get("warnings", ()), *(w for stage in record.stages for w in stage.get("warnings", ()))]
    told = list(dict.fromkeys(told))
    return tag("ul", *(tag("li", line) for line in told), class_="warnings") if told else None


def figures(record: Record) -> Markup:
    """All figures of the run."""
    return tag("div", *filter(None, (draw(record) for draw in DRAWN)), class_="figures")


def _first(record: Record, task: str) -> float | None:
    metric = record.tasks[task]
    return next((s["before"][task][metric] for s in record.stages if metric in s["before"].get(task, {})), None)


def scores_by_stage(record: Record) -> Markup | None:
    """Dev scores before and after each stage, also of tasks that it does not train."""
    rows, data = [], []
    for stage in record.stages:
        for task, after in stage["after"].items():
            metric = stage["main_metrics"].get(task, "")
            if metric not in after or after[metric] is None:
                continue
            before = stage["before"].get(task, {}).get(metric)
            data.append((stage["name"], task, metric, before, after[metric]))
            if 0 <= after[metric] <= 1 and 0 <= (before or 0) <= 1:  # one axis for what is a share
                values = [(before, 7), (after[metric], 0)] if before is not None else [(after[metric], 0)]
                rows.append((f"{stage['name']}: {task}", values))
    if not rows:
        return None
    numbers = table(("stage", "task", "metric", "before", "after"), data)
    title = "Dev scores before and after each stage"
    key = tag("ul", _key(7, "before"), _key(0, "after"), class_="legend")
    return figure(title, dot_plot(rows, label=title), numbers, legend=key)


def losses(record: Record) -> Markup | None:
    """Training losses by task."""
    return _over_steps(record, "Training loss", lambda step: step.losses)


def weights(record: Record) -> Markup | None:
    """The combiner's weights by task, unless they never differ from 1."""
    found = [value for step in record.steps for value in step.weights.values()]
    if not found or all(abs(value - 1) < 1e-9 for value in found):
        return None
    return _over_steps(record, "Combiner weight", lambda step: step.weights)


def rates(record: Record) -> Markup | None:
    """The learning rate of the trunk."""
    return _over_steps(
        record,
        "Learning rate",
        lambda step: {} if step.learning_rate is None else {"learning rate": step.learning_rate},
    )


def dev_scores(record: Record) -> Markup | None:
    """The main metrics on dev during training, on one axis for those that are shares."""
    series = {f"{task} {metric}": record.dev_scores(task) for task, metric in record.tasks.items()}
    shares = {name: p for name, p in series.items() if p and all(0 <= value <= 1 for _, value in p)}
    if not any(len(points) > 1 for points in shares.values()):
        return None
    return _lines(record, "Dev score during training", shares, dots=True)


def cost(record: Record) -> Markup:
    """What each stage cost."""
    rows = [
        (s["name"], s["strategy"] or "–", s["combiner"] or "–", s["trainable"], s["trunk"], s["steps"], s["rows"],
         s["tokens"], s["rows_per_s"], s["seconds"]["total"])
        for s in record.stages
    ]  # fmt: skip
    headings = ("stage", "strategy", "combiner", "trained", "of trunk", "steps", "rows", "tokens", "rows/s", "seconds")
    parts = list(dict.fromkeys(part for s in record.stages for part in s["seconds"] if part != "total"))
    spent = [(s["name"], *(float(s["seconds"].get(part, 0.0)) for part in parts)) for s in record.stages]
    return joined([table(headings, rows, caption="Cost"), table(("seconds", *parts), spent, caption="Time")])


DRAWN: tuple[Callable[[Record], Markup | None], ...] = (scores_by_stage, losses, dev_scores, weights, rates)


def _over_steps(record: Record, title: str, values: Callable[[Step], Mapping[str, float]]) -> Markup | None:
    series: Series = {}
    for step in record.steps:
        for name, value in values(step).items():
            series.setdefault(name, []).append((float(step.at), value))
    return _lines(record, title, series) if series else None


def _lines(record: Record, title: str, series: Mapping[str, Sequence[Point]], *, dots: bool = False) -> Markup:
    breaks = [(float(start), name) for name, start in record.starts.items()] if len(record.starts) > 1 else []
    drawing = line_chart(series, label=title, dots=dots, breaks=breaks)
    drawn = {name: dict(thinned(points)) for name, points in series.items()}
    steps = sorted({at for points in drawn.values() for at in points})
    rows = [(number_text(at), *(points.get(at) for points in drawn.values())) for at in steps]
    mean = any(len(points) > len(drawn[name]) for name, points in series.items())
    note = "means of equal parts of the steps" if mean else None
    return figure(title, drawing, table(("step", *drawn), rows), legend=legend(list(series)), note=note)


def _key(index: int, name: Content) -> Markup:
    return tag("li", tag("i", class_=f"k{index}"), name)
