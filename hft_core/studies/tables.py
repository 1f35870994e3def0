"""The tables of a study, for a terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hft_core.studies.evidence import ArmEvidence
from hft_core.studies.summary import Comparison, Summary

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, headings and rows."""


def tables(summary: Summary) -> list[Table]:
    """Return all tables of a study in the order in which they are read."""
    found = [_scores(summary, task) for task in summary.tasks]
    found.append(_delta(summary))
    found.append(_costs(summary))
    if any(arm.forgetting for arm in summary.arms):
        found.append(_forgetting(summary))
    if summary.tuning:
        found.append(_tuning(summary))
    return found


def lines(summary: Summary) -> list[str]:
    """Return what is said beside the tables."""
    said = [f"arm '{name}' has another budget: {', '.join(costs)}" for name, costs in summary.budgets.items() if costs]
    return [*summary.notes, *said, f"recommended: '{summary.recommended}': {summary.reason}"]


def markdown(summary: Summary) -> str:
    """Return the tables as a Markdown document."""
    parts = [f"# {len(summary.arms)} arms, {len(summary.seeds)} seeds, against `{summary.reference}`"]
    for title, headings, rows in tables(summary):
        written = [f"## {title}", "", _row(headings), _row(["---"] * len(headings)), *map(_row, rows)]
        parts.append("\n".join(written))
    parts.append("\n".join(f"- {line}" for line in lines(summary)))
    return "\n\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _scores(summary: Summary, task: str) -> Table:
    compared = {c.arm: c for c in summary.comparisons if c.task == task}
    split = next((c.split for c in compared.values()), "test")
    metric = next(arm.main_metrics[task] for arm in summary.arms if arm.name == summary.reference)
    rows = [
        (_name(arm), _mean(arm, "dev", task), _mean(arm, split, task), *_difference(compared.get(arm.name)))
        for arm in summary.arms
        if task in arm.main_metrics
    ]
    headings = ("arm", "dev", split, "difference", "95 % interval", "p (Holm)", "could show", "verdict")
    return f"{task}: {metric}", headings, rows


def _name(arm: ArmEvidence) -> str:
    return f"{arm.name} (control)" if arm.control else arm.name


def _mean(arm: ArmEvidence, split: str, task: str) -> str:
    mean = arm.mean(split, task)
    return "–" if mean is None else f"{mean:.4g}"


def _difference(comparison: Comparison | None) -> tuple[str, ...]:
    if comparison is None or comparison.statistics is None:
        return ("reference" if comparison is None else "–", "", "", "", "")
    found = comparison.statistics
    finite = math.isfinite(found.low)
    interval = f"{found.low:+.3g} to {found.high:+.3g}" if finite else "–"
    shows = f"{found.detectable:.2g}" if math.isfinite(found.detectable) else "–"
    return (f"{found.mean:+.3g}", interval, f"{comparison.p_holm:.2g}", shows, comparison.verdict)


def _delta(summary: Summary) -> Table:
    splits = list(summary.delta_m[summary.reference])
    rows = []
    for arm in summary.arms:
        found = summary.delta_m[arm.name]
        parts = ", ".join(f"{task} {value:+.2%}" for task, value in found[splits[-1]]["parts"].items())
        means = (found[split]["mean"] for split in splits)
        rows.append((_name(arm), *("–" if mean is None else f"{mean:+.2%}" for mean in means), parts))
    return f"Δm on '{summary.reference}'", ("arm", *(f"Δm {split}" for split in splits), f"parts ({splits[-1]})"), rows


def _costs(summary: Summary) -> Table:
    rows = [
        (
            _name(arm),
            *(f"{arm.cost[name]:,.0f}" for name in ("rows", "tokens", "steps", "trainable")),
            f"{arm.cost['seconds']:.1f}",
            f"{arm.cost['peak_memory'] / 2**20:,.0f} MiB",
            "yes" if arm.name in summary.pareto else "",
        )
        for arm in summary.arms
        if arm.cost
    ]
    return (
        "Cost (means over seeds)",
        ("arm", "rows", "tokens", "steps", "trainable", "seconds", "peak memory", "Pareto"),
        rows,
    )


def _forgetting(summary: Summary) -> Table:
    rows: list[tuple[str, ...]] = [
        (_name(arm), task, f"{losses['before']:.4g}", f"{losses['after']:.4g}")
        for arm in summary.arms
        for task, losses in arm.forgetting.items()
    ]
    return "Forgetting (dev loss)", ("arm", "task", "before", "after"), rows


def _tuning(summary: Summary) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            one.arm,
            one.key,
            ", ".join(
                f"{rate:.3g} ({'failed' if gain is None else f'{gain:+.1%}'})"
                for rate, gain in sorted(zip(one.rates, one.gains, strict=True))
            ),
            f"{one.chosen:.3g}",
        )
        for one in summary.tuning
        if one.chosen is not None
    ]
    return "Tuning (gain on the arm's own rate, on dev)", ("arm", "key", "tried", "chosen"), rows
