"""Follow a run's log while it grows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
SHOWN = ("run_started", "stage_started", "step", "evaluation", "stage_finished", "run_finished", "run_failed")
"""Events that the page draws; others may be long."""


async def follow(log: Path, offset: int, alive: Callable[[], bool], poll: float = POLL_SECONDS) -> AsyncIterator[str]:
    """Yield server-sent events: `log` with a list of new lines, `end` when the run has ended.

    Each event's id is the byte up to which the log was read, from which a browser that lost its connection resumes.
    """
    quiet = 0.0
    while True:
        was_alive = alive()
        lines, offset = await asyncio.to_thread(_read, log, offset)
        for start in range(0, len(lines), 500):
            until = f"id: {offset}\n" if start + 500 >= len(lines) else ""
            yield f"{until}event: log\ndata: [{','.join(lines[start : start + 500])}]\n\n"
        if not lines and not was_alive:
            yield "event: end\ndata: {}\n\n"
            return
        quiet = 0.0 if lines else quiet + poll
        if quiet >= KEEP_ALIVE_SECONDS:
            quiet = 0.0
            yield ": still there\n\n"
        if not lines:
            await asyncio.sleep(poll)


def _read(log: Path, offset: int) -> tuple[list[str], int]:
    """Return the whole lines after `offset` that the page draws, and where they end."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            if size < offset:  # a resumed run has cut its log
                offset = 0
            file.seek(offset)
            block = file.read(4_000_000)
    except OSError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") in SHOWN:
            lines.append(json.dumps(event))  # on one line, whatever the log holds
    return lines, offset + len(whole)
