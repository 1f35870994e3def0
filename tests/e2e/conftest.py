"""Tiny real models (see `tests/models.py`) as fixtures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hft_core import assemble, machine, recipe_file
from hft_core.observers import Observers
from hft_core.plugins import Catalogue
from hft_core.resolve import resolve
from hft_core.stages import Stages


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that more threads only get into each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """The module `tests/models.py`: the tests are no package that it could be imported from."""
    spec = importlib.util.spec_from_file_location("hft_test_models", Path(__file__).parents[1] / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models(toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Model folders by name."""
    return toys.Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Stages]:
    """A function that makes a run ready up to its first step, so that a test can look into it."""

    def ready(
        recipe: dict[str, Any], data: dict[str, Any], *observers: object, inline: tuple[Path, ...] = ()
    ) -> Stages:
        resolved = resolve(recipe_file.from_dict(recipe), Catalogue.discover(inline=inline))
        told = Observers([(type(observer).__name__, observer) for observer in observers], pytest.fail)
        torch.manual_seed(resolved.recipe.seed)
        material = assemble.assemble(resolved, host_data=data, trust_remote_code=False)
        return Stages(material, machine.find("fp32"), told, tmp_path)

    return ready
