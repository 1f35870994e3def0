"""Families: tasks whose examples have the same inputs one by one, so that one encoding of a text serves all of them.

Four label columns of one file are a family. Tasks of which one has more rows than the other, or the same rows in
another order, are none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hft_core.data.examples import Examples
    from hft_core.head import Head


def families(examples: Mapping[str, Examples], heads: Mapping[str, Head]) -> dict[str, str]:
    """For each task, the first one with the same inputs and units: itself where there is none before it, or where its
    head shows the trunk other sequences than were encoded."""
    found: dict[str, str] = {}
    alike: dict[bytes, list[str]] = {}
    for task, part in examples.items():
        found[task] = task
        if heads[task].changes_sequences:
            continue
        earlier = alike.setdefault(_outline(part), [])  # only these are worth a look at every token
        found[task] = next((other for other in earlier if examples[other].inputs == part.inputs), task)
        if found[task] == task:
            earlier.append(task)
    return found


def _outline(examples: Examples) -> bytes:
    """A digest of the lengths and sizes of the units."""
    return hashlib.blake2b(examples.lengths.tobytes() + examples.sizes.tobytes()).digest()
