"""Put the report of one run or several together as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hft_core.reports import answer_figures, run_figures
from hft_core.reports.charts import dot_plot
from hft_core.reports.markup import Content, Markup, figure, legend, table, tag
from hft_core.reports.record import Record
from hft_core.reports.row_texts import RowTexts

STYLE = Path(__file__).with_name("style.css")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Nothing is loaded and nothing is run, whatever the data hold."""


def page(records: Sequence[Record], texts: Sequence[RowTexts], *, by: str = "", version: str = "") -> str:
    """Return the page of one run or several; `by`: a column of the data to divide test rows by."""
    title = records[0].name if len(records) == 1 else f"{len(records)} runs"
    body = [
        tag("header", tag("h1", title), _facts(records)),
        _comparison(records) if len(records) > 1 else None,
        *(_run(i, *pair, by, alone=len(records) == 1) for i, pair in enumerate(zip(records, texts, strict=True))),
    ]
    return document(title, body, version)


def document(title: str, body: Sequence[Content], version: str) -> str:
    """Return a whole page that loads nothing and runs nothing."""
    footer = tag("footer", f"Written by hft {version}." if version else "Written by hft.")
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{title} · hft"),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    ]
    html = tag("html", tag("head", *head), tag("body", tag("main", *body, footer)), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


def _facts(records: Sequence[Record]) -> Markup:
    """One line on where and how long."""
    if len(records) > 1:
        return tag("p", *joined_by(" · ", [tag("a", r.name, href=f"#run-{i}") for i, r in enumerate(records)]))
    results = records[0].results
    stages = " → ".join(" ".join(filter(None, (s["name"], s["strategy"], s["combiner"]))) for s in records[0].stages)
    facts = f"{stages} · {results['seconds']:.0f} s on {results['device']} in {results['precision']}"
    return tag("p", facts, class_="lead")


def joined_by(separator: str, parts: Sequence[Markup]) -> list[Markup | str]:
    """Return parts with a separator between them."""
    return [item for part in parts for item in (separator, part)][1:]


def _run(index: int, record: Record, texts: RowTexts, by: str, *, alone: bool) -> Markup:
    sections = [section for task in record.tasks if (section := answer_figures.task_section(record, task, texts, by))]
    parts = [
        None if alone else tag("h2", record.name, id=f"run-{index}"),
        run_figures.summary(record),
        tag("h2" if alone else "h3", "Training"),
        run_figures.figures(record),
        *([tag("h2" if alone else "h3", "Answers"), *sections] if sections else []),
        tag("h2" if alone else "h3", "Cost"),
        run_figures.cost(record),
    ]
    return tag("article", *parts)


def _comparison(records: Sequence[Record]) -> Markup:
    """The test scores of all runs side by side (dev scores without any)."""
    tasks = dict.fromkeys(task for record in records for task in record.tasks)
    rows: list[Sequence[Content]] = []
    dots: list[tuple[str, list[tuple[float, int]]]] = []
    for task in tasks:
        split = "test" if any(task in r.tasks and r.score("test", task) is not None for r in records) else "dev"
        scores = [record.score(split, task) if task in record.tasks else None for record in records]
        metric = next(record.tasks[task] for record in records if task in record.tasks)
        rows.append((task, f"{split} {metric}", *scores))
        known = [(score, i) for i, score in enumerate(scores) if score is not None and 0 <= score <= 1]
        if known:
            dots.append((task, known))
    rows.append(("all stages", "seconds", *(float(record.results["seconds"]) for record in records)))
    numbers = table(("task", "metric", *(record.name for record in records)), rows)
    if not dots:
        return numbers
    names = legend([record.name for record in records])
    return figure("Scores of the runs", dot_plot(dots, label="Scores of the runs"), numbers, legend=names)
