"""Find texts that are the same, or nearly the same, as an earlier one.

Near: a Jaccard similarity of the sets of shingles of at least `NEAR`, found by MinHash and locality-sensitive hashing
(Broder 1997) and then computed.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hft_core.errors import UsageError

NEAR = 0.8
"""Least similarity of near duplicates."""
SHINGLE = 5
"""Characters of a shingle."""
PERMUTATIONS = 64


@dataclass(frozen=True)
class Groups:
    """Texts that are alike, by the index of the first one."""

    same: list[int]
    """For each text, the first one that is equal but for case, width and blanks."""
    alike: list[int]
    """For each text, the first one that it is equal to or resembles."""


Sketches = dict[str, Any]
"""MinHashes by the text that they are of."""


def groups(texts: Sequence[str], *, near: bool, sketches: Sketches | None = None) -> Groups:
    """Group texts that are the same, and with `near` those that resemble an earlier one.

    `sketches`: of texts that were grouped before; those of other ones are added. Raises `UsageError` when `near` is
    wanted and datasketch is not installed.
    """
    plain = [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    firsts: dict[str, int] = {}
    same = [firsts.setdefault(text, i) for i, text in enumerate(plain)]
    like = _near(plain, list(firsts.values()), {} if sketches is None else sketches) if near else {}
    return Groups(same, [like.get(first, first) for first in same])


def _near(texts: Sequence[str], distinct: Sequence[int], sketches: Sketches) -> dict[int, int]:
    """Return the earlier text that each of the distinct ones resembles, of those that do; only texts that resemble
    none are compared with later ones."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError:
        raise UsageError(
            "near duplicates are found with datasketch, which is not installed: pip install 'hft-core[check-data]', or "
            "give --exact"
        ) from None
    index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
    empty = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    found: dict[int, int] = {}
    for i in distinct:
        shingles = _shingles(texts[i])
        sketch = sketches.get(texts[i])
        if sketch is None:
            sketch = sketches[texts[i]] = empty.copy()
            sketch.update_batch([shingle.encode() for shingle in shingles])
        like = sorted(j for j in index.query(sketch) if _similarity(shingles, _shingles(texts[j])) >= NEAR)
        if like:
            found[i] = like[0]
        else:
            index.insert(i, sketch, check_duplication=False)
    return found


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _similarity(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
