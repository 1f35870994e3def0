"""Name this machine's processor and its features; light."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


@cache
def processor() -> tuple[str | None, frozenset[str] | None]:
    """Return the processor's name and its features as Linux names them; None where they are unknown."""
    try:
        lines = CPU_INFO.read_text(errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or None, None
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or None
    flags = fields.get("flags", fields.get("Features"))
    return name, None if flags is None else frozenset(flags.split())
