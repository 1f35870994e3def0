"""Find tasks whose examples have the same inputs one by one, so that one encoding of a row serves all of them.

Four label columns of one file are such tasks. Tasks with another number of rows, or the same rows in another order, are
not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hft_core.data.examples import Examples
from hft_core.head import Head


def tasks_with_shared_inputs(examples: Mapping[str, Examples], heads: Mapping[str, Head]) -> dict[str, str]:
    """Find for each task the first one with the same inputs and units: itself if there is none before it, or if its
    head changes the encoded sequences."""
    leaders: dict[str, str] = {}
    candidates: dict[bytes, list[str]] = {}
    for task, part in examples.items():
        leaders[task] = task
        if heads[task].changes_sequences:
            continue
        similar = candidates.setdefault(_outline(part), [])  # only their tokens are compared
        leaders[task] = next((other for other in similar if examples[other].input_digest == part.input_digest), task)
        if leaders[task] == task:
            similar.append(task)
    return leaders


def _outline(examples: Examples) -> bytes:
    """Hash the lengths and sizes of the units."""
    return hashlib.blake2b(examples.lengths.tobytes() + examples.sizes.tobytes()).digest()
