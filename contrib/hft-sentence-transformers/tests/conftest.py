"""What holds for every test of the distribution: nothing is fetched, and one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are so small that more threads only get into each other's way."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a tiny folder of sentence-transformers, as `example.write` does."""
    from hft_sentence_transformers.example import write

    def written(**kinds: Any) -> Path:
        place = tmp_path / "-".join(["folder", *(f"{value}" for value in kinds.values())])
        write(place, **kinds)
        return place

    return written
