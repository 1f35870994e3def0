"""Compare what heads learned from the training rows (label order, tag scheme, …) with what a run began with.

A head's weights mean nothing without its facts: output 2 is the class that stood third when training began. Whatever a
head keeps in `Head.facts` is compared, without the core knowing what it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hft_core.errors import DataError
from hft_core.head import Head

Facts = dict[str, dict[str, Any]]
"""The facts of each task's head, as values that JSON can hold."""

SHOWN = 60
"""Characters of a fact that are shown in a message."""


def facts_of(heads: Mapping[str, Head]) -> Facts:
    """Return the facts of all heads as they are after they were written as JSON and read back."""
    facts: Facts = json.loads(json.dumps({task: head.facts for task, head in heads.items()}, default=repr))
    return facts


def difference(one: Mapping[str, Any], other: Mapping[str, Any], places: tuple[str, str] = ("before", "now")) -> str:
    """Name the first fact that differs, with both values and where each was found; empty if none differs."""
    for name in dict.fromkeys([*one, *other]):
        old, new = _text(one, name), _text(other, name)
        if old != new:
            return f"{name}: {_from_difference(old, new)} {places[0]}, {_from_difference(new, old)} {places[1]}"
    return ""


def check_unchanged(before: Facts, now: Facts) -> None:
    """Raise `DataError` when a head has learned other facts from the same rows than the checkpoint's."""
    for task, facts in before.items():
        if found := difference(facts, now.get(task, {})):
            raise DataError(
                f"task '{task}': the head learned other facts from the training rows than the run began with "
                f"({found}), so that its trained weights would mean something else; resume it with the same data, "
                "plugins and versions, or start a new run"
            )


def _text(facts: Mapping[str, Any], name: str) -> str:
    return json.dumps(facts[name], ensure_ascii=False, sort_keys=True) if name in facts else "nothing"


def _from_difference(text: str, other: str) -> str:
    """Shorten `text` to what is near the first character in which it differs from `other`."""
    if len(text) <= SHOWN:
        return text
    differs = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    start = max(0, min(differs - SHOWN // 3, len(text) - SHOWN))
    end = start + SHOWN
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"
