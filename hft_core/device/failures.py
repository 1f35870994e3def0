"""Propagate the first rank's exception, so that other ranks do not report an opaque collective timeout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from hft_core.errors import RunError
from hft_core.runtime.signals import Interrupted

KEY = "hft/failed"
TIMEOUT = timedelta(seconds=5)
"""How long a rank whose collective failed waits for the message of the rank that failed first."""


@contextmanager
def propagate_failure() -> Iterator[None]:
    """Publish an exception that is raised inside to the other ranks; where a collective fails because another rank has
    failed, raise `RunError` with that rank's message. Does nothing with one process."""
    try:
        yield
    except Interrupted:  # raised by all ranks together
        raise
    except Exception as error:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            raise
        if _is_collective_error(error):
            raise RunError(_failure_of_other_rank()) from error
        _publish(f"process {dist.get_rank()}: {' '.join(str(error).split()) or type(error).__name__}")
        raise


def _is_collective_error(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _store() -> Any:
    """Connect to the key-value store of the rendezvous, that of the launcher or of rank 0."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in a torch without distributed

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=TIMEOUT)


def _publish(message: str) -> None:
    try:
        _store().set(KEY, message)
    except (KeyError, ValueError, RuntimeError):  # no store: the other ranks report that this one is gone
        return


def _failure_of_other_rank() -> str:
    try:
        return f"another process of the run has failed, and this one with it; {_store().get(KEY).decode()}"
    except (KeyError, ValueError, RuntimeError):
        return (
            "another process of the run has ended without a word (killed, or its machine is gone), and this one with "
            "it; the run can be resumed from its last checkpoint"
        )
