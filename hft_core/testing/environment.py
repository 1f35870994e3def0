"""Run checks in the same environment everywhere: one thread, a fixed seed, no output of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hft_core.runtime.transformers_logs import quiet_transformers


@contextmanager
def isolated() -> Iterator[None]:
    """Use one thread, as the models are tiny, and seeded random numbers; restore both afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet_transformers(), torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
