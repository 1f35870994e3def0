"""How much memory the heap of glibc takes for a sequence of allocations of a process on a CPU.

It takes more than the tensors have at once, up to 1.7 times as much where there are many temporary ones: torch asks for
blocks that begin at a multiple of 64 bytes (`posix_memalign`), glibc cuts them out of blocks that are 96 bytes longer,
and gives the remnants to small objects, such as the nodes of autograd. The hole that a block leaves is then too short
for the next one of its size until these objects are gone.

Modeled are the parts of malloc that matter for large blocks (`malloc/malloc.c` of glibc 2.36): best fit, merging of
neighbours, `mmap` for what is longer than a threshold that grows up to 32 MiB, and trimming of the upper end.
"""

from __future__ import annotations

import platform
from bisect import bisect_left, insort
from collections.abc import Sequence

from hft_core.memory.allocations import Event

KEPT = 0.65
"""Share of the remnants that small objects of the forward pass take until its backward pass. Fitted to peaks of
training steps on glibc 2.36, where shares between 0.2 and 0.7 fitted best; see docs/how-to/fit-large-models.md."""
SMALL = 1024
"""Bytes; what is smaller comes from elsewhere, and is left out."""
HEADER, ALIGNMENT, LEAST, PAGE = 16, 64, 32, 4096
MOST_THRESHOLD = 32 << 20
"""The largest block that does not always get pages of its own."""
TOP_PAD = 128 << 10


def peak(events: Sequence[Event], device_type: str) -> tuple[int, int]:
    """Return the most bytes that the allocations take at once, and the index of the event at which they do: of a heap
    where they come from one of glibc, otherwise of the blocks that are alive."""
    return heap_peak(events) if device_type == "cpu" and is_glibc() else live_peak(events)


def live_peak(events: Sequence[Event]) -> tuple[int, int]:
    """Return the most bytes that are alive at once, and the index of the event at which they are."""
    sizes: dict[int, int] = {}
    alive = most = place = 0
    for index, event in enumerate(events):
        alive += event.size - sizes.pop(event.block, 0)
        if event.size:
            sizes[event.block] = event.size
        if alive > most:
            most, place = alive, index
    return most, place


def heap_peak(events: Sequence[Event], kept: float = KEPT) -> tuple[int, int]:
    """Return the same for glibc's heap."""
    heap, chunks = _Heap(), dict[int, _Chunk]()
    backwards = sum(event.backward for event in events)
    forwards = len(events) - backwards
    held: list[tuple[int, _Chunk]] = []
    gone = done = 0
    draw = most = 0.0
    place = 0
    for index, event in enumerate(events):
        done, gone = done + (not event.backward), gone + event.backward
        remnants: list[_Chunk] = []
        if event.size >= SMALL:
            chunks[event.block], remnants = heap.allocate(event.size)
        elif event.block in chunks:
            heap.free(chunks.pop(event.block))
        for remnant in remnants:
            draw = (draw + 0.6180339887) % 1  # spread evenly, and the same each time
            if event.graph and not event.backward and draw < kept:
                held.append((done, remnant))
            else:
                heap.free(remnant)
        while event.backward and held and held[-1][0] * backwards >= (backwards - gone) * forwards:
            heap.free(held.pop()[1])
        if heap.resident > most:
            most, place = heap.resident, index
    return int(most), place


def is_glibc() -> bool:
    """Tell whether this process allocates by glibc."""
    return platform.libc_ver()[0] == "glibc"


class _Chunk:
    """A piece of the heap, with its neighbours, or a block of mapped pages."""

    __slots__ = ("address", "after", "before", "free", "mapped", "size")

    def __init__(self, address: int, size: int, before: _Chunk | None, after: _Chunk | None) -> None:
        self.address, self.size, self.before, self.after = address, size, before, after
        self.free = self.mapped = False


class _Heap:
    def __init__(self) -> None:
        self.threshold = MOST_THRESHOLD  # the trial before has freed large blocks
        self.top = self.end = self.touched = self.mapped = 0
        """Addresses above the last chunk, of the end, and of the last byte that was written; bytes of mapped pages."""
        self._free: list[tuple[int, int, _Chunk]] = []
        """Free chunks by size and address."""
        self._last: _Chunk | None = None

    @property
    def resident(self) -> int:
        return self.touched + self.mapped

    def allocate(self, size: int) -> tuple[_Chunk, list[_Chunk]]:
        """Return a chunk for an aligned block, and the remnants in front of it and behind it."""
        needed = _rounded(size + HEADER + ALIGNMENT + LEAST, HEADER)
        chunk = self._found(needed) or self._from_top(needed)
        if chunk is None:
            chunk = _Chunk(0, _rounded(needed, PAGE), None, None)
            chunk.mapped = True
            self.mapped += chunk.size
            return chunk, []
        remnants = []
        gap = -(chunk.address + HEADER) % ALIGNMENT
        if gap:
            gap += ALIGNMENT * (gap < LEAST)
            remnants.append(chunk)
            chunk = self._cut(chunk, gap)
        kept = _rounded(size + HEADER, HEADER)
        if chunk.size - kept >= LEAST:
            remnants.append(self._cut(chunk, kept))
        return chunk, remnants

    def free(self, chunk: _Chunk) -> None:
        if chunk.mapped:
            self.mapped -= chunk.size
            return
        if chunk.before is not None and chunk.before.free:
            before = chunk.before
            self._take(before)
            self._join(before, chunk)
            chunk = before
        if chunk.after is not None and chunk.after.free:
            self._take(chunk.after)
            self._join(chunk, chunk.after)
        if chunk.after is not None:
            self._put(chunk)
            return
        self.top, self._last = chunk.address, chunk.before
        if chunk.before is not None:
            chunk.before.after = None
        if self.end - self.top >= 2 * self.threshold:
            self.end = _rounded(self.top + TOP_PAD + LEAST, PAGE)
            self.touched = min(self.touched, self.end)

    def _found(self, needed: int) -> _Chunk | None:
        """Take the smallest free chunk that is large enough, and leave what it has more."""
        index = bisect_left(self._free, (needed,))
        if index == len(self._free):
            return None
        chunk = self._free.pop(index)[2]
        chunk.free = False
        if chunk.size - needed >= LEAST:
            self._put(self._cut(chunk, needed))
        return chunk

    def _from_top(self, needed: int) -> _Chunk | None:
        """Take a chunk from the upper end; None where the block gets pages of its own."""
        if self.end - self.top < needed + LEAST:
            if needed >= self.threshold:
                return None
            self.end = _rounded(self.top + needed + LEAST + TOP_PAD, PAGE)
        chunk = _Chunk(self.top, needed, self._last, None)
        if self._last is not None:
            self._last.after = chunk
        self._last = chunk
        self.top += needed
        self.touched = max(self.touched, self.top)
        return chunk

    def _cut(self, chunk: _Chunk, size: int) -> _Chunk:
        """Cut a chunk after `size` bytes; return the rest."""
        rest = _Chunk(chunk.address + size, chunk.size - size, chunk, chunk.after)
        if chunk.after is None:
            self._last = rest
        else:
            chunk.after.before = rest
        chunk.after, chunk.size = rest, size
        return rest

    def _join(self, chunk: _Chunk, after: _Chunk) -> None:
        chunk.size, chunk.after = chunk.size + after.size, after.after
        if after.after is None:
            self._last = chunk
        else:
            after.after.before = chunk

    def _put(self, chunk: _Chunk) -> None:
        chunk.free = True
        insort(self._free, (chunk.size, chunk.address, chunk))

    def _take(self, chunk: _Chunk) -> None:
        chunk.free = False
        del self._free[bisect_left(self._free, (chunk.size, chunk.address))]


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step
