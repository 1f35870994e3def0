"""How much memory this process may still take, and how much it has; light (imports no torch at module level)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEMORY_INFO = Path("/proc/meminfo")
GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, for a CPU those that this process may still take; None if unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def available_memory() -> int | None:
    """Return the bytes of RAM that this process may still take, limits of its containers included; None if unknown."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", MEMORY_INFO.read_text())
    except OSError:  # not Linux
        return None
    return min([int(found[1]) * 1024, *_left_in_groups()]) if found else None


def _left_in_groups() -> Iterator[int]:
    """Yield what is left of the limit of each control group that this process is in, of version 2 or 1."""
    for group in _groups():
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                most, taken = (group / limit).read_text().strip(), int((group / used).read_text())
                found = re.search(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
            except (OSError, ValueError):
                continue
            if most.isdigit():  # files that the kernel keeps in memory give way
                yield max(0, int(most) - taken + (int(found[1]) if found else 0))


def _groups() -> Iterator[Path]:
    """Yield the folders of the groups, those above them too. In a container, its own group is the uppermost folder."""
    try:
        lines = GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = GROUPS / "memory" if controllers else GROUPS
        inner = top / path.lstrip("/")
        yield from dict.fromkeys([inner, *(folder for folder in inner.parents if folder.is_relative_to(top)), top])
