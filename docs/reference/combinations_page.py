"""Writes `combinations.md` from what validation says to each head with each strategy:
`python docs/reference/combinations_page.py` (a minute). `tests/e2e/test_crossing.py` runs what is not refused."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).with_name("combinations.md")
CROSSING = PAGE.parents[2] / "tests" / "e2e" / "crossing.py"

INTRODUCTION = """\
# Combinations

Every built-in head with every built-in strategy, on tiny random models: a BERT (bidirectional), a Llama
(autoregressive) and a T5 (encoder-decoder). Supported pairs were trained for three steps beside a second task with
the combiners `sum`, `uncertainty` and `pcgrad`, saved, and reopened with the same predictions. Unsupported pairs are
refused before training, by `hft validate` and `hft run`, with the reason given here.

This page is written by `docs/reference/combinations_page.py`; a test compares them.

## Heads and trunks
"""
STRATEGIES = """\
## Strategies and heads

✓: they work on the first of the trunks that takes both. A number: refused on every trunk that takes the head, for the
reason under that number.
"""


def crossing() -> ModuleType:
    """The tests' module that puts heads and strategies together."""
    name = "hft_crossing"
    if name not in sys.modules:
        spec = spec_from_file_location(name, CROSSING)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def page() -> str:
    """The text of `combinations.md`."""
    heads, strategies, trunks = crossing().names("head"), crossing().names("strategy"), crossing().TRUNKS
    reasons: dict[str, int] = {}
    on_trunks = [[_mark(crossing().refusal(head, "", trunk), reasons) for trunk in trunks] for head in heads]
    parts = [INTRODUCTION, _table(["head", *trunks], heads, on_trunks), _notes(reasons), STRATEGIES]
    reasons, rows, after = {}, [], {}
    for strategy in strategies:
        cells = {head: crossing().cell(head, strategy) for head in heads}
        rows.append([_mark(reason(head, cell), reasons) for head, cell in cells.items()])
        after[strategy] = next((cell.after for cell in cells.values() if cell.after), "")
    parts.append(_table(["strategy", *(f"`{head}`" for head in heads)], strategies, rows))
    follows = [f"`{name}` is for a stage right after one of `{before}`." for name, before in after.items() if before]
    parts += [_notes(reasons), *(f"{sentence}\n" for sentence in follows)]
    return "\n".join(part for part in parts if part)


def reason(head: str, cell: object) -> str:
    """Return why no trunk that takes the head takes the strategy as well, as the page says it; empty if one does."""
    if cell.trunk:  # type: ignore[attr-defined]
        return ""
    found = [(trunk, reason) for trunk, reason in cell.reasons if not crossing().refusal(head, "", trunk)]  # type: ignore[attr-defined]
    said = dict.fromkeys(text for _, text in found)
    if len(said) == 1:
        return shown(next(iter(said)))
    return shown("; ".join(f"{trunk}: {text}" for trunk, text in found))


def shown(refusal: str) -> str:
    """Return a refusal as the page says it."""
    return refusal.removeprefix("task 'one': ")


def reasons_on_page(section: str, name: str) -> dict[str, str]:
    """Return what the first table of a section of the page says in the row of `name`, by column: a reason, or nothing
    for a tick."""
    lines = section.splitlines()
    header = next(line for line in lines if line.startswith("| ") and not line.startswith("| `"))
    row = next(line for line in lines if line.startswith(f"| `{name}` |"))
    notes = dict(line.split(". ", 1) for line in lines if line.partition(". ")[0].isdigit())
    columns, cells = ([cell.strip() for cell in line.strip("| ").split("|")] for line in (header, row))
    return {
        column.strip("`"): "" if mark == "✓" else notes[mark]
        for column, mark in zip(columns[1:], cells[1:], strict=True)
    }


def _mark(refusal: str, reasons: dict[str, int]) -> str:
    """A tick, or the number of the reason."""
    text = shown(refusal)
    return f"{reasons.setdefault(text, len(reasons) + 1)}" if text else "✓"


def _table(header: list[str], names: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"| --- |{' :-: |' * (len(header) - 1)}"]
    lines += [f"| `{name}` | {' | '.join(row)} |" for name, row in zip(names, rows, strict=True)]
    return "\n".join(lines) + "\n"


def _notes(reasons: dict[str, int]) -> str:
    return "\n".join(f"{number}. {reason}" for reason, number in reasons.items()) + ("\n" if reasons else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
