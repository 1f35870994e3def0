"""Choose vectors that cover all others: greedy k-center (Gonzalez 1985; for active learning, Sener and Savarese 2018,
arXiv:1708.00489)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hft_core.runtime import signals

if TYPE_CHECKING:
    from numpy.typing import NDArray

Center = tuple[int, float | None]
"""The number of a vector, and its distance to the nearest center before it; None for the first of all."""


def k_center(vectors: NDArray[np.float32], count: int, centers: NDArray[np.float32] | None = None) -> list[Center]:
    """Choose `count` of the vectors `[n, d]`, which have length 1: each time the one that is farthest from all centers.

    `centers`: those that there are already `[m, d]`; without any, the first is the vector nearest to the mean of all.
    Of vectors at the same distance, the first is taken. Distances are Euclidean.
    """
    chosen: list[Center] = []
    if centers is None or not len(centers):
        first = int(np.argmax(vectors @ vectors.mean(axis=0)))
        chosen.append((first, None))
        centers = vectors[first : first + 1]
    squared = np.full(len(vectors), np.inf, np.float32)
    for center in centers:
        squared = np.minimum(squared, _squared(vectors, center))
    squared[[number for number, _ in chosen]] = -1
    while len(chosen) < min(count, len(vectors)):
        signals.check()
        number = int(np.argmax(squared))
        chosen.append((number, float(np.sqrt(squared[number]))))
        squared = np.minimum(squared, _squared(vectors, vectors[number]))
        squared[number] = -1
    return chosen[:count]


def _squared(vectors: NDArray[np.float32], center: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared distance of each vector to one, all of length 1."""
    return np.asarray(np.maximum(2 - 2 * (vectors @ center), 0), np.float32)
