"""What holds for every test (nothing is fetched, and a tokenizer's threads cannot hang a test), and the tiny real
models of `tests/models.py` as fixtures."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
_caches = tempfile.TemporaryDirectory(prefix="hft-test-cache-")  # a person's own cache is neither read nor filled
os.environ["HFT_CACHE"] = _caches.name
os.environ.pop("HFT_BLOCK", None)
os.environ.pop("HFT_ALLOW", None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The models are so small that more threads only get into each other's way."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """The module `tests/models.py`: the tests are no package that it could be imported from."""
    spec = importlib.util.spec_from_file_location("hft_test_models", Path(__file__).with_name("models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models(toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Model folders by name."""
    return toys.Models(tmp_path_factory.mktemp("models"))
