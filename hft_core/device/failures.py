"""What the processes of a run tell each other when one of them fails: the others wait for it, and would blame the
network."""

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
PATIENCE = timedelta(seconds=5)
"""How long a process that has lost another waits for its word."""


@contextmanager
def told() -> Iterator[None]:
    """Tell the other processes of an error that is raised inside; where one of them is lost, raise `RunError` with what
    it told, or with that it told nothing. With one process, nothing happens."""
    try:
        yield
    except Interrupted:  # agreed on by all
        raise
    except Exception as error:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            raise
        if _is_of_the_network(error):
            raise RunError(_last_words()) from error
        _tell(f"process {dist.get_rank()}: {' '.join(str(error).split()) or type(error).__name__}")
        raise


def _is_of_the_network(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _store() -> Any:
    """The launcher's, or the first process's, by which all found each other."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # a torch without processes has none

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=PATIENCE)


def _tell(text: str) -> None:
    try:
        _store().set(KEY, text)
    except (KeyError, ValueError, RuntimeError):  # it has gone, or there never was one: the others will find that out
        return


def _last_words() -> str:
    try:
        return f"another process of the run has failed, and this one with it; {_store().get(KEY).decode()}"
    except (KeyError, ValueError, RuntimeError):
        return (
            "another process of the run has ended without a word (killed, or its machine is gone), and this one with "
            "it; the run can be resumed from its last checkpoint"
        )
