"""Recognize texts, or pairs of texts, with classes or numbers, and texts alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hft_core.data.cells import as_label, shown
from hft_core.inspection import column_names as names
from hft_core.inspection.column_profile import MAX_CLASSES, ColumnProfile
from hft_core.inspection.proposal import Proposal, Table

SEPARATORS = (";", "|", ",", "/", " ")
DIVIDED = 0.1
"""Of several labels in a text: at least so many cells hold more than one."""
IMBALANCE = 10
"""The largest class has this many times the rows of the smallest: weights may help."""
RARE = 3
"""A class of fewer rows is not in every split."""
MANY_FLAGS = 3
"""So many columns of 0 and 1 are one class each."""


def propose(table: Table) -> list[Proposal]:
    """Return one task for each column that is to be learned."""
    targets, doubts = _targets(table)
    text, doubts_of_text = _text(table, targets)
    if not text:
        return []
    read = text[0] if len(text) == 1 else text
    if not targets:
        why = f"no column is one of labels: language modelling of '{text[0]}'"
        return [Proposal("mlm", {"text": text[0]}, why, _left_out(table, text), (text[0],))]
    doubts += doubts_of_text
    found = [_task(table[name], read, tuple(text)) for name in targets]
    return [
        Proposal(p.head, p.options, p.why, (*p.unsure, *(doubts if i == 0 else ())), p.texts, p.label)
        for i, p in enumerate(found)
    ]


def _left_out(table: Table, texts: list[str]) -> tuple[str, ...]:
    """Return a doubt for each column that has the name of what is learned, and neither numbers nor classes, and for
    each one of objects that are written as text."""
    doubts = []
    for column in table.columns:
        if not column.present or column.name in texts:
            continue
        such = f"its cells (such as {shown(column.present[0])})"
        if column.kind in ("text", "id", "other") and all(map(_is_object, column.present)):
            doubts.append(
                f"what '{column.name}' is for: {such} are objects written as text, whose keys cannot be read; a jsonl "
                "or parquet file holds them as objects"
            )
        elif names.is_named(column.name, names.LABEL | names.NUMBER):
            doubts.append(
                f"whether '{column.name}' is to be learned: {such} are neither numbers nor one of a few classes"
            )
    return tuple(doubts)


def _is_object(cell: object) -> bool:
    return isinstance(cell, str) and cell.strip().startswith("{") and cell.strip().endswith("}")


def _targets(table: Table) -> tuple[list[str], tuple[str, ...]]:
    """Return the columns that are to be learned, and what is doubtful about that."""
    about = names.LABEL | names.NUMBER
    possible = [c for c in table.columns if _may_be_learned(c)]
    named = [c.name for c in possible if names.is_named(c.name, about)]
    flags = [c.name for c in possible if c.kind == "number" and {as_label(v) for v in c.present} == {"0", "1"}]
    if len(flags) >= MANY_FLAGS:
        return flags, ()
    others = [c.name for c in possible if c.name not in named and not names.is_named(c.name, names.OTHER)]
    if named:
        strict = [n for n in named if names.plain_name(n) in about] or named
        left = [n for n in (*named, *others) if n not in strict and table[n].kind == "label"]
        return strict, _also(left)
    if not others:
        return [], ()
    classes = [n for n in others if table[n].kind != "number"]
    chosen = (classes or others)[-1]
    doubts = (f"whether '{chosen}' is what is to be learned: its name does not say so",)
    return [chosen], (*doubts, *_also([n for n in others if n != chosen]))


def _also(left: list[str]) -> tuple[str, ...]:
    listed = ", ".join(map(repr, left))
    return (f"whether {listed} should be learned too, in a task of its own",) if left else ()


def _may_be_learned(column: ColumnProfile) -> bool:
    if column.kind in ("label", "number"):
        return column.distinct >= 2
    if column.kind == "words" or (column.kind == "texts" and names.is_named(column.name, names.LABEL)):
        return len({item for value in column.present for item in value}) <= MAX_CLASSES
    return column.kind == "text" and names.is_named(column.name, names.LABEL) and separator_of(column) is not None


def separator_of(column: ColumnProfile) -> str | None:
    """Return what divides the labels in a cell of a column of texts; None where each cell is one label or a text."""
    cells = [as_label(value) for value in column.present]
    for separator in SEPARATORS:
        divided = [[part.strip() for part in cell.split(separator)] for cell in cells]
        counts = Counter(part for parts in divided for part in parts)
        several = sum(len(parts) > 1 for parts in divided)
        if separator == " " and not names.is_named(column.name, frozenset({"labels", "tags", "categories"})):
            continue
        reused = len(counts) <= min(MAX_CLASSES, len(cells) / 2) and all(count > 1 for count in counts.values())
        if several >= DIVIDED * len(cells) and reused and len(counts) <= len(set(cells)) and "" not in counts:
            return separator
    return None


def _text(table: Table, targets: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return the one or two columns that are read, and what is doubtful about that."""
    texts = [name for name in table.texts if name not in targets]
    if pair := table.pair(names.PAIRS):
        return list(pair), ()
    if len(texts) <= 1:
        return texts or _short_texts(table, targets), ()
    title = names.first_named(texts, ("title", "headline", "subject", "标题"))
    longest = max(texts, key=lambda name: table[name].length)
    if title and title != longest:
        left = [name for name in texts if name not in (title, longest)]
        doubt = f"whether both are needed: 'text: {longest}' reads the longer one alone"
        return [title, longest], (doubt, *_unread(left))
    if len(texts) == 2:
        return texts, (f"whether both texts are needed: 'text: {longest}' reads the longer one alone",)
    named = names.first_named(texts, ("text", "content", "body", "article", "sentence", "文本", "内容")) or longest
    return [named], _unread([name for name in texts if name != named])


def _unread(left: list[str]) -> tuple[str, ...]:
    return (f"whether {', '.join(map(repr, left))} should be read too",) if left else ()


def _short_texts(table: Table, targets: list[str]) -> list[str]:
    """Return a column of texts that are as short and as few as labels, where there is no other."""
    return [n for n in table.of("label", "id") if n not in targets and names.is_named(n, names.TEXT)][:1]


def _task(column: ColumnProfile, read: str | list[str], texts: tuple[str, ...]) -> Proposal:
    options: dict[str, Any] = {"text": read, "label": column.name}
    if column.kind in ("words", "texts"):
        return Proposal("multilabel", options, f"'{column.name}' holds a list of labels", (), texts, column.name)
    if column.kind != "number" and (separator := separator_of(column)):
        options["separator"] = separator
        why = f"'{column.name}' holds several labels, divided at {separator!r}"
        return Proposal("multilabel", options, why, (), texts, column.name)
    if column.kind == "number" and _is_amount(column):
        values = [float(value) for value in column.present]
        why = f"'{column.name}' is a number from {min(values):g} to {max(values):g}"
        doubt = f"whether the {column.distinct} numbers are classes without an order (head: classification)"
        few = column.whole and column.distinct <= IMBALANCE
        return Proposal("regression", options, why, (doubt,) if few else (), texts, column.name)
    counts = Counter(as_label(value) for value in column.present)
    pair = " of a pair of texts" if len(texts) == 2 else ""
    why = f"'{column.name}' is one of {len(counts)} classes{pair}"
    return Proposal("classification", options, why, _doubts_of_classes(column, counts), texts, column.name)


def _is_amount(column: ColumnProfile) -> bool:
    """Return whether numbers are an amount rather than the names of classes."""
    if not column.whole:
        return True
    named = names.is_named(column.name, names.NUMBER) and not names.is_named(column.name, names.LABEL)
    return (named and column.distinct > 2) or column.distinct > min(MAX_CLASSES, max(20, len(column.present) // 10))


def _doubts_of_classes(column: ColumnProfile, counts: Counter[str]) -> tuple[str, ...]:
    found = []
    if column.kind == "number" and len(counts) > 2 and not re.search("id$|class|label", names.plain_name(column.name)):
        found.append(f"whether the numbers of '{column.name}' have an order (head: regression)")
    if counts.most_common()[0][1] >= IMBALANCE * counts.most_common()[-1][1]:
        found.append(
            "classes of very different size: 'class_weights: balanced' makes rare ones count as much as frequent ones"
        )
    if rare := [name for name, count in counts.items() if count < RARE]:
        shown = ", ".join(sorted(rare)[:5])
        found.append(f"{len(rare)} classes with fewer than {RARE} rows ({shown}) cannot be in train, dev and test")
    return tuple(found)
