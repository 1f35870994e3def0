"""Show the answers of a task: confusion, calibration, slices and the worst rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hft_core.reports.charts import heat_map, line_chart
from hft_core.reports.markup import Content, Markup, figure, joined, number_text, table, tag
from hft_core.reports.record import Record
from hft_core.reports.row_texts import Place, RowTexts
from hft_core.runs import answer_statistics
from hft_core.runs.answers import Answers
from hft_core.studies.slices import Slice, row_scores, slices

Cells = Mapping[Place, Mapping[str, Any]]
WORST = 9
LONGEST_TEXT = 600
"""Characters of a text that are shown."""


def task_section(record: Record, task: str, texts: RowTexts, by: str) -> Markup | None:
    """Show the test answers of a task, or those on dev without any; None where the run kept none."""
    found = next(((s, a) for s in ("test", "dev") if (a := record.answers(task, s)) is not None), None)
    if found is None:
        return None
    split, answers = found
    cells = texts.of(task, split, by)
    drawn = [draw for draw in (_confusion(answers), _calibration(answers)) if draw is not None]
    parts = [
        tag("h3", f"{task} ", tag("small", f"{len(answers.places):,} {split} rows")),
        tag("div", *drawn, class_="figures") if drawn else None,
        _slices(answers, cells, texts.columns.get(task, ()), by),
        _worst(answers, cells, texts),
    ]
    shown = [part for part in parts if part is not None]
    return tag("section", *shown) if len(shown) > 1 else None


def _confusion(answers: Answers) -> Markup | None:
    found = answer_statistics.confusion(answers)
    if found is None:
        return None
    title = "Confusion matrix"
    rows = []
    for i, name in enumerate(found.names):
        hits, said, true = found.counts[i][i], sum(row[i] for row in found.counts), sum(found.counts[i])
        rows.append((name, *found.counts[i], hits / said if said else None, hits / true if true else None))
    data = table(("reference", *found.names, "precision", "recall"), rows)
    return figure(title, heat_map(found.names, found.counts, label=title), data, note="shade: share of the reference")


def _calibration(answers: Answers) -> Markup | None:
    found = answer_statistics.calibration(answers)
    if found is None:
        return None
    title = "Calibration"
    points = [(b.confidence, b.accuracy) for b in found.bins]
    drawing = line_chart({"accuracy": points}, label=title, across="confidence", dots=True, diagonal=True)
    data = table(("confidence", "accuracy", "rows"), [(b.confidence, b.accuracy, b.rows) for b in found.bins])
    values = (("ECE", found.scores.ece), ("Brier", found.scores.brier), ("NLL", found.scores.nll))
    return figure(title, drawing, data, note=" · ".join(f"{name} {number_text(value)}" for name, value in values))


def _slices(answers: Answers, cells: Cells, inputs: Sequence[str], by: str) -> Markup | None:
    scores = row_scores(answers)
    if scores is None:
        return None
    parts: list[tuple[str, list[Slice]]] = []
    places = answers.places
    if any(place in cells for place in places):
        if by and any(by in cells.get(place, ()) for place in places):
            parts.append((by, slices(scores, [cells.get(place, {}).get(by) for place in places])))
        lengths = [_length(cells[place], inputs) if place in cells else None for place in places]
        parts.append(("characters", slices(scores, lengths)))
    files = [Path(file).name for file, _ in places]  # a report is passed on, and paths are private
    if len(set(files)) > 1:
        parts.append(("file", slices(scores, files)))
    rows = [
        (kind, s.name, s.rows, s.mean, f"{s.low:.3g} to {s.high:.3g}", s.p)
        for kind, found in parts
        for s in found
        if len(found) > 1
    ]
    headings = ("slice", "value", "rows", scores.name, "95 % interval", "p (Holm) of a difference to the rest")
    return table(headings, rows, caption="Slices") if rows else None


def _length(cells: Mapping[str, Any], inputs: Sequence[str]) -> int:
    return sum(len(str(cells.get(name) or "")) for name in inputs)


def _worst(answers: Answers, cells: Cells, texts: RowTexts) -> Markup | None:
    lost = answers.column("loss")
    if lost is None:
        return None
    known = [i for i, loss in enumerate(lost) if loss is not None]
    order = sorted(known, key=lambda i: -lost[i])[:WORST]
    truth, said = answers.column("reference") or [None] * len(lost), answers.column("prediction") or [None] * len(lost)
    items = []
    for i in order:
        file, number = answers.places[i]
        verdict: list[Content] = [tag("b", _short(truth[i]))] if truth[i] is not None else []
        if said[i] is not None and said[i] != truth[i]:
            verdict += [" answered ", tag("b", _short(said[i]), class_="wrong")]
        place = f"loss {number_text(float(lost[i]))} · {Path(file).name}, row {number}"
        read = " ¦ ".join(str(value) for value in cells.get((file, number), {}).values() if value is not None)
        shown = read if len(read) <= LONGEST_TEXT else read[:LONGEST_TEXT] + "…"
        text = tag("p", shown, dir="auto") if shown else None
        items.append(tag("li", tag("div", *verdict, class_="answer"), text, tag("small", place)))
    note = tag("p", f"Texts are not shown: {texts.problem}", class_="note") if texts.problem else None
    return joined([tag("h4", "Rows with the largest loss"), note, tag("ol", *items, class_="worst")])


def _short(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    shown = number_text(value) if isinstance(value, float) else str(value)
    return shown if len(shown) <= 120 else shown[:119] + "…"
