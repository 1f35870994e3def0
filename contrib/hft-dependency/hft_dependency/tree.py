"""Check dependency trees, and find the best one for given scores; numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROOT = 0
"""The node above the sentence; the words are 1 … n."""


def fault(heads: Sequence[int]) -> str:
    """Return why `heads` (of words 1 … n) is not a tree with a single root; empty if it is."""
    count = len(heads)
    for word, head in enumerate(heads, start=1):
        if not 0 <= head <= count:
            return f"item {word}: found the head {head}, expected 0 (the root) or one of the words 1 … {count}"
        if head == word:
            return f"item {word}: found the head {head}, which is the word itself"
    cycle = find_cycle([ROOT, *heads])
    if cycle:
        return f"found the cycle {' → '.join(map(str, [*cycle, cycle[0]]))}, expected a tree"
    roots = [word for word, head in enumerate(heads, start=1) if head == ROOT]
    if len(roots) > 1:
        return f"found {len(roots)} roots (words {', '.join(map(str, roots))}), expected one word with the head 0"
    return ""


def find_cycle(heads: Sequence[int]) -> list[int]:
    """Return the nodes of one cycle, each followed by its head; empty where every node leads to the root.

    `heads[node]` for every node; that of the root is not looked at.
    """
    seen_from = {ROOT: ROOT}
    for start in range(1, len(heads)):
        path = []
        node = start
        while node not in seen_from:
            seen_from[node] = start
            path.append(node)
            node = heads[node]
        if seen_from[node] == start:
            return path[path.index(node) :]
    return []


def best_tree(scores: NDArray[np.floating]) -> list[int]:
    """Return the heads of words 1 … n in the tree with a single root whose arcs have the greatest sum of scores.

    `scores[dependent, head]`: `[n + 1, n + 1]`, finite; row 0 and the diagonal are not looked at. The algorithm is that
    of Chu and Liu (1965) and Edmonds (1967). Every arc from the root is made dearer by more than all other choices
    together can bring, so that the best tree has one only (why a parser needs that: Zmigrod et al. 2020,
    arXiv:2010.03858).
    """
    count = len(scores)
    arcs = np.array(scores, dtype=np.float64)
    span = arcs[1:].max(axis=1) - arcs[1:].min(axis=1)
    arcs[:, ROOT] -= span.sum() + 1
    np.fill_diagonal(arcs, -np.inf)
    arcs[ROOT] = -np.inf
    return _arborescence(arcs)[1:] if count > 1 else []


def _arborescence(arcs: NDArray[np.float64]) -> list[int]:
    """Return the head of each node in the spanning tree from node 0 with the greatest sum.

    Cycles of best arcs are contracted to a node each until there is none; then they are opened, the last one first.
    """
    contracted: list[_Contraction] = []
    while True:
        heads = [int(head) for head in arcs.argmax(axis=1)]
        cycle = find_cycle(heads)
        if not cycle:
            break
        contracted.append(_Contraction(arcs, heads, cycle))
        arcs = contracted[-1].arcs
    for contraction in reversed(contracted):
        heads = contraction.opened(heads)
    return heads


class _Contraction:
    """A graph in which the nodes of a cycle are one node, the last."""

    def __init__(self, arcs: NDArray[np.float64], heads: list[int], cycle: list[int]) -> None:
        self.heads = heads
        self.cycle = np.asarray(cycle)
        self.rest = np.setdiff1d(np.arange(len(arcs)), self.cycle)
        """The other nodes by their new numbers; the root stays 0."""
        kept = arcs[self.cycle, [heads[node] for node in cycle]]
        out = arcs[np.ix_(self.rest, self.cycle)]
        into = arcs[np.ix_(self.cycle, self.rest)] - kept[:, None]
        self.leaves = out.argmax(axis=1)
        """For each other node, the place in the cycle of its best head there."""
        self.enters = into.argmax(axis=0)
        """For each other node as a head, the place in the cycle where its arc enters best."""
        count = len(self.rest)
        self.arcs = np.full((count + 1, count + 1), -np.inf)
        self.arcs[:count, :count] = arcs[np.ix_(self.rest, self.rest)]
        self.arcs[:count, count] = out.max(axis=1)
        self.arcs[count, :count] = into.max(axis=0)

    def opened(self, heads: list[int]) -> list[int]:
        """The heads in the graph before the contraction, from those after it."""
        whole, count = list(self.heads), len(self.rest)
        for node, head in enumerate(heads[:count]):
            whole[self.rest[node]] = int(self.cycle[self.leaves[node]] if head == count else self.rest[head])
        entry = heads[count]
        whole[self.cycle[self.enters[entry]]] = int(self.rest[entry])
        return whole
