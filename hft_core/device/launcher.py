"""Which process this is, of how many, as launchers tell by the environment (torchrun's variables); light."""

from __future__ import annotations

import os

from hft_core.errors import UsageError

RANK, WORLD_SIZE, MEETING = "RANK", "WORLD_SIZE", ("MASTER_ADDR", "MASTER_PORT")


def world_asked_for() -> int:
    """The number of processes. Raises `UsageError` where the environment gives none that can be."""
    return _number(WORLD_SIZE, "1", least=1)


def check_meeting(world: int) -> None:
    """Raise `UsageError` where the environment does not say where several processes meet."""
    missing = [name for name in MEETING if name not in os.environ]
    if world > 1 and missing:
        raise UsageError(
            f"the environment asks for {world} processes (WORLD_SIZE) without {' and '.join(missing)}, where they "
            "meet: start hft with 'hft run --processes N' or torchrun"
        )


def rank_asked_for() -> int:
    """This process's number, from 0. Raises `UsageError` where the environment gives none that can be."""
    rank, world = _number(RANK, "0", least=0), world_asked_for()
    if rank >= world:
        raise UsageError(
            f"the environment says that this is process {rank} of {world} (RANK, WORLD_SIZE): expected one from 0 to "
            f"{world - 1}"
        )
    return rank


def _number(variable: str, default: str, *, least: int) -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"the environment variable {variable} is '{text}': expected a whole number >= {least}")
    return int(text)
