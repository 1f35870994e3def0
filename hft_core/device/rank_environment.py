"""Read this process's rank and the world size from the environment variables that torchrun sets; imports no torch."""

from __future__ import annotations

import os

from hft_core.errors import UsageError

RANK, WORLD_SIZE, RENDEZVOUS = "RANK", "WORLD_SIZE", ("MASTER_ADDR", "MASTER_PORT")


def requested_world_size() -> int:
    """Read the number of processes. Raises `UsageError` where the variable is no positive integer."""
    return _integer(WORLD_SIZE, "1", least=1)


def check_rendezvous(world_size: int) -> None:
    """Raise `UsageError` where several processes are requested without an address at which they meet."""
    missing = [name for name in RENDEZVOUS if name not in os.environ]
    if world_size > 1 and missing:
        raise UsageError(
            f"the environment asks for {world_size} processes (WORLD_SIZE) without {' and '.join(missing)}, where they "
            "meet: start hft with 'hft run --processes N' or torchrun"
        )


def requested_rank() -> int:
    """Read this process's rank. Raises `UsageError` where it is no integer from 0 to the world size - 1."""
    rank, world_size = _integer(RANK, "0", least=0), requested_world_size()
    if rank >= world_size:
        raise UsageError(
            f"the environment says that this is process {rank} of {world_size} (RANK, WORLD_SIZE): expected one from 0 "
            f"to {world_size - 1}"
        )
    return rank


def _integer(variable: str, default: str, *, least: int) -> int:
    text = os.environ.get(variable, default)
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"the environment variable {variable} is '{text}': expected a whole number >= {least}")
    return int(text)
