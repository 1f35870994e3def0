"""What the tests of the distribution have in common; nothing is fetched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

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
def head() -> Callable[..., object]:
    """A function that makes a head that has learned the relations of the toy rows; `attached` to a tiny BERT."""
    from hft_core import Catalogue
    from hft_core.testing import trunks
    from hft_dependency.example_rows import dependency
    from hft_dependency.head import Options, build

    def made(**options: object) -> object:
        new = build(Options(**{"arc_mlp_size": 12, "label_mlp_size": 8, **options}), task="syntax")
        rows = dependency(8, 0)
        new.learn({name: [row[name] for row in rows] for name in rows[0]})
        new.backbone = trunks.opened(Catalogue.discover(), "BERT")
        new.attach(new.backbone)
        return new.eval()

    return made
