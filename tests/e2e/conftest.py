"""Runs on tiny models, ready up to their first step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hft_core import assemble, hookimpl, machine, recipe_file
from hft_core.observers import Observers
from hft_core.plugins import Catalogue
from hft_core.resolve import resolve
from hft_core.stages import Stages


@pytest.fixture(scope="module", autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""


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


class _StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    @hookimpl
    def hft_step_finished(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def stop_after() -> Callable[[int], object]:
    """Makes an observer that ends the process's run after so many steps, as a signal would."""
    return _StopAfter
