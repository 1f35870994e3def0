"""Writes `benchmarks.md` from the measurements in `benchmarks/*.json`: `python docs/benchmarks_page.py`."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("benchmarks.md")
MEASURED = Path(__file__).with_name("benchmarks")
SCRIPTS = Path(__file__).parents[1] / "tests" / "benchmarks"

INTRODUCTION = """\
# Benchmarks

Every number was written by a script of `tests/benchmarks` into `docs/benchmarks/`; `docs/benchmarks_page.py` makes
this page of those files, and a test compares them. Ratios are medians over rounds that alternate between all
contenders in one run, on shared machines with two cores; absolute times do not transfer to other machines. Methods
and limits are described in [Speed](explanation/speed.md).

"""
CHART = "training_loops"
"""The benchmark that is drawn as well."""


def page() -> str:
    """The text of `benchmarks.md`."""
    parts = [_part(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(MEASURED.glob("*.json"))]
    return INTRODUCTION + "\n".join(parts)


def _part(measured: dict[str, Any]) -> str:
    """One benchmark: what it is, where it ran, its table."""
    name, rows = measured["benchmark"], measured["rows"]
    first, _, rest = _docstring(name).partition("\n\n")
    command, _, more = rest.partition("\n\n")
    facts = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [
        f"## {name.replace('_', ' ').capitalize()}",
        "",
        " ".join(first.split()),
        "",
        f"```text\n{command.strip()}\n```",
        "",
        " ".join(more.split()),
        "",
        f"{measured['date']}; {facts}.",
        "",
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows),
        "",
    ]
    return "\n".join([*lines, *(_chart(rows) if name == CHART else [])])


def _docstring(name: str) -> str:
    tree = ast.parse((SCRIPTS / f"{name}.py").read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or ""


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _chart(rows: list[dict[str, Any]]) -> list[str]:
    """Full fine-tuning, one task, short texts."""
    drawn = [row for row in rows if (row["texts"], row["strategy"], row["tasks"]) == ("short", "full", 1)]
    names = ", ".join(f'"{row["contender"]}"' for row in drawn)
    rates = ", ".join(str(row["tokens_per_s"]) for row in drawn)
    return [
        "```mermaid",
        "xychart-beta",
        '    title "Tokens per second without padding: one task, short texts, full fine-tuning"',
        f"    x-axis [{names}]",
        '    y-axis "tokens per second"',
        f"    bar [{rates}]",
        "```",
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
