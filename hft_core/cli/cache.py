"""`hft cache`: check, measure or clear what is cached for later runs; imports no torch."""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hft_core.cli.run import JsonOption
from hft_core.cli.terminal import print_json, print_table, say
from hft_core.errors import RunError, UsageError


class Action(StrEnum):
    """What is done with the cache."""

    CHECK = "check"
    SIZE = "size"
    CLEAR = "clear"


LimitOption = Annotated[
    str | None, typer.Option("--limit", metavar="SIZE", help="For clear: keep the last used entries up to this size.")
]


def cache(
    action: Annotated[Action, typer.Argument(help="Compare all entries with their hashes, list sizes, or remove all.")],
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check, measure or clear the cache of tokens and activations."""
    from hft_core.runtime import cache as cached

    if limit is not None and action is not Action.CLEAR:
        raise UsageError(f"--limit is for 'hft cache clear'; runs keep to {cached.SIZE} or their --cache-size")
    root = cached.folder()
    if root is None:
        raise UsageError(f"there is no cache: the user has no home folder; name a folder with {cached.PLACE}")
    if action is Action.CLEAR:
        _clear(root, 0 if limit is None else cached.parse_size(limit, "--limit"), as_json=as_json)
    elif action is Action.CHECK:
        _check(root, as_json=as_json)
    else:
        _show_size(root, as_json=as_json)


def _show_size(root: Path, *, as_json: bool) -> None:
    from hft_core.runtime import cache as cached

    found, limit = cached.entries(root), cached.limit()
    count = Counter(entry.path.parent.name for entry in found)
    size = {kind: sum(e.size for e in found if e.path.parent.name == kind) for kind in cached.KINDS}
    total = sum(size.values())
    if as_json:
        kinds = {kind: {"entries": count[kind], "bytes": size[kind]} for kind in cached.KINDS}
        print_json({"folder": str(root), "bytes": total, "limit": limit, "kinds": kinds})
        return
    print_table(("kind", "entries", "size"), [(kind, count[kind], _size(size[kind])) for kind in cached.KINDS])
    say(f"{_size(total)} of at most {_size(limit)} in {root}")


def _check(root: Path, *, as_json: bool) -> None:
    """Compare each entry with its manifest. Raises `RunError` when one differs."""
    from hft_core.runtime import cache as cached
    from hft_core.runtime import cache_entry

    found = cached.entries(root)
    damaged = {str(entry.path): problem for entry in found if (problem := cache_entry.problem(entry.path))}
    if as_json:
        print_json({"folder": str(root), "entries": len(found), "damaged": damaged})
    else:
        for path, problem in damaged.items():
            say(f"{path}: {problem}")
    if damaged:
        raise RunError(f"{len(damaged)} of {len(found)} entries are damaged; a run that needs one makes it anew")
    if not as_json:
        say(f"{len(found)} entries in {root} are as they were written")


def _clear(root: Path, limit: int, *, as_json: bool) -> None:
    """Remove the least recently used entries above `limit` bytes. Raises `RunError` when some cannot be removed."""
    from hft_core.runtime import cache as cached

    removed = cached.evict(root, limit)
    left = sum(entry.size for entry in cached.entries(root))
    if as_json:
        facts: list[dict[str, Any]] = [{"path": str(e.path), "bytes": e.size} for e in removed]
        print_json({"folder": str(root), "removed": facts, "bytes": left})
    else:
        oldest = f", last used {_day(removed[0].last_use)} or later" if removed else ""
        say(f"removed {len(removed)} entries ({_size(sum(e.size for e in removed))}{oldest}); {_size(left)} are left")
    if left > limit:
        raise RunError(f"{root}: {_size(left)} cannot be removed")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
