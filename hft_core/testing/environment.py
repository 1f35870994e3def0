"""Run checks in the same environment everywhere: one thread, a fixed seed, no output of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the logs and progress bars of transformers about tiny models, some of which are incomplete on purpose."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
