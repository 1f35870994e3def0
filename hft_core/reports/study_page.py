"""Put the report of a study together as one page: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hft_core.errors import ModelError
from hft_core.reports.charts import dot_plot, scatter
from hft_core.reports.markup import Content, Markup, figure, number_text, table, tag
from hft_core.reports.page import document
from hft_core.runtime.files import read_json
from hft_core.studies.statistics import BETTER, NO_DIFFERENCE, WORSE

STUDY_FILE = "study.json"
COLORS = {BETTER: 2, WORSE: 1, NO_DIFFERENCE: 7, "": 0}
"""Of an arm by its verdict; of the reference the first."""
COSTS = ("rows", "tokens", "steps", "trainable", "seconds", "peak_memory")

Study = Mapping[str, Any]


def read_study(folder: Path) -> Study:
    """Read the results of the study in `folder`. Raises `ModelError` for a damaged file."""
    path = folder / STUDY_FILE
    try:
        study: Study = read_json(path)
        _ = study["reference"], study["arms"], study["comparisons"], study["delta_m"], study["reason"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: this study cannot be read: {type(error).__name__}: {error}") from error
    return study


def study_page(name: str, study: Study, *, version: str = "") -> str:
    """Return the page of a study."""
    seeds = len(study["seeds"])
    arms = len(study["arms"])
    lead = f"{arms} arms, {seeds} seed{'s' if seeds > 1 else ''}, against {study['reference']}"
    plots = [plot for axis in ("trainable", "seconds") if (plot := _pareto(study, axis)) is not None]
    body: list[Content] = [
        tag("header", tag("h1", name), tag("p", lead, class_="lead")),
        tag("h2", "Verdict"),
        tag("p", tag("strong", f"Recommended: {study['recommended']}. "), _sentence(study["reason"])),
        _notes(study),
        tag("h2", "Quality and cost"),
        tag("div", *plots, class_="figures") if plots else tag("p", "No arm has both dev scores and costs."),
        tag("h2", "Tasks"),
        *(part for task in study["tasks"] for part in _task(study, task)),
        tag("h3", "All tasks"),
        _delta(study),
        tag("h2", "Cost"),
        _cost(study),
        _forgetting(study),
        _tuning(study),
    ]
    return document(name, body, version)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _notes(study: Study) -> Markup | None:
    told = list(study.get("notes", ()))
    told += [f"{arm} has another budget: {', '.join(costs)}" for arm, costs in study["budgets"].items() if costs]
    return tag("ul", *(tag("li", line) for line in told), class_="warnings") if told else None


def _verdict(study: Study, arm: str) -> str:
    """Return what the arm's comparisons say together; nothing for the reference."""
    said = {c["verdict"] for c in study["comparisons"] if c["arm"] == arm}
    if arm == study["reference"] or not said:
        return ""
    return WORSE if WORSE in said else BETTER if BETTER in said else NO_DIFFERENCE


def _pareto(study: Study, axis: str) -> Markup | None:
    """Draw dev Δm against a cost, for the arms that have both."""
    points, rows = [], []
    for arm in study["arms"]:
        gain, cost = study["delta_m"][arm["name"]]["dev"]["mean"], arm["cost"].get(axis)
        if gain is None or not cost:
            continue
        verdict = _verdict(study, arm["name"])
        points.append((arm["name"], float(cost), 100 * float(gain), COLORS[verdict]))
        best = "yes" if arm["name"] in study["pareto"] else ""
        rows.append((arm["name"], float(cost), 100 * float(gain), verdict or "reference", best))
    if not points:
        return None
    what = "trainable parameters" if axis == "trainable" else "seconds"
    title = f"Dev Δm (%) by {what}"
    shown = [
        (name, cost, gain, verdict or "reference", "yes" if best else "") for name, cost, gain, verdict, best in rows
    ]
    data = table(("arm", what, "Δm dev (%)", "verdict", "Pareto"), shown)
    key = tag("ul", *(_key(color, name or "reference") for name, color in COLORS.items()), class_="legend")
    return figure(title, scatter(points, label=title, across=what), data, legend=key)


def _key(color: int, name: str) -> Markup:
    return tag("li", tag("i", class_=f"k{color}"), name)


def _task(study: Study, task: str) -> Iterator[Markup]:
    """Yield the heading and the table of one task, and a plot of the means where they are shares."""
    compared = {c["arm"]: c for c in study["comparisons"] if c["task"] == task}
    split = next((c["split"] for c in compared.values()), "test")
    metric = next((a["main_metrics"][task] for a in study["arms"] if task in a["main_metrics"]), "")
    yield tag("h3", f"{task} ", tag("small", f"{metric}, judged on {split}"))
    rows, dots = [], []
    for arm in study["arms"]:
        if task not in arm["main_metrics"]:
            continue
        means = [_mean(arm, part, task) for part in ("dev", split)]
        found = compared.get(arm["name"])
        rows.append((_named(arm), *means, *_difference(found, is_reference=arm["name"] == study["reference"])))
        if means[1] is not None and 0 <= means[1] <= 1:
            dots.append((arm["name"], [(means[1], COLORS[found["verdict"] if found else ""])]))
    numbers = table(("arm", "dev", split, "difference", "95 % interval", "p (Holm)", "could show", "verdict"), rows)
    title = f"{task}: mean {split} {metric}"
    yield numbers
    if dots:
        shown = table(("arm", f"mean {split} {metric}"), [(name, values[0][0]) for name, values in dots])
        yield tag("div", figure(title, dot_plot(dots, label=title), shown), class_="figures")


def _named(arm: Mapping[str, Any]) -> str:
    return f"{arm['name']} (control)" if arm["control"] else str(arm["name"])


def _mean(arm: Mapping[str, Any], split: str, task: str) -> float | None:
    values = arm["scores"].get(split, {}).get(task, {}).get(arm["main_metrics"].get(task, ""), [])
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _difference(found: Mapping[str, Any] | None, *, is_reference: bool) -> Sequence[Content]:
    if found is None or found["statistics"] is None:
        return ("reference" if is_reference else "–", "", None, None, "")
    s = found["statistics"]
    ends = None if s["low"] is None or s["high"] is None else f"{s['low']:+.3g} to {s['high']:+.3g}"
    return (f"{s['mean']:+.3g}", ends, found["p_holm"], s["detectable"], found["verdict"])


def _delta(study: Study) -> Markup:
    splits = list(study["delta_m"][study["reference"]])
    rows: list[Sequence[Content]] = []
    for arm in study["arms"]:
        found = study["delta_m"][arm["name"]]
        parts = ", ".join(f"{task} {value:+.2%}" for task, value in found[splits[-1]]["parts"].items())
        means = (found[split]["mean"] for split in splits)
        rows.append((_named(arm), *("–" if mean is None else f"{mean:+.2%}" for mean in means), parts))
    headings = ("arm", *(f"Δm {split}" for split in splits), f"parts ({splits[-1]})")
    return table(headings, rows, caption=f"Δm: mean relative gain on {study['reference']}")


def _cost(study: Study) -> Markup:
    rows: list[Sequence[Content]] = [
        (_named(arm), *(float(arm["cost"][name]) for name in COSTS)) for arm in study["arms"] if arm["cost"]
    ]
    headings = ("arm", "rows", "tokens", "steps", "trainable", "seconds", "peak memory (bytes)")
    return table(headings, rows, caption="Means over seeds")


def _forgetting(study: Study) -> Markup | None:
    rows: list[Sequence[Content]] = [
        (_named(arm), task, losses["before"], losses["after"], _change(losses))
        for arm in study["arms"]
        for task, losses in arm["forgetting"].items()
    ]
    headings = ("arm", "task", "dev loss before", "after", "change")
    return table(headings, rows, caption="Forgetting") if rows else None


def _tuning(study: Study) -> Markup | None:
    rows: list[Sequence[Content]] = [
        (one["arm"], one["key"], rate, "failed" if gain is None else f"{gain:+.1%}", "yes" if chosen else "")
        for one in study.get("tuning", ())
        for rate, gain in sorted(zip(one["rates"], one["gains"], strict=True))
        for chosen in [rate == one["chosen"]]
    ]
    headings = ("arm", "key", "value", "gain on the arm's own (dev)", "chosen")
    return table(headings, rows, caption="Tries of the learning rate") if rows else None


def _change(losses: Mapping[str, float | None]) -> str:
    before, after = losses["before"], losses["after"]
    return "–" if before is None or after is None else f"{'+' if after >= before else ''}{number_text(after - before)}"
