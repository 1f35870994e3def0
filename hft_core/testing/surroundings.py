"""What a check finds around it, the same wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """No reports and bars of transformers: about tiny folders, some of which are incomplete on purpose."""
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
def own() -> Iterator[None]:
    """One thread, since the models are tiny, and random numbers of the check's own; both are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)
