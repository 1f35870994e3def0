"""Runs on tiny models, ready up to their first step."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from hft_core import hookimpl
from hft_core.device.machine import find_machine
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.observers import Observers
from hft_core.recipe import recipe_file
from hft_core.recipe.batch_size import with_batch_sizes
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.runs.stages import Stages
from hft_core.runtime.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Stages]:
    """A function that makes a run ready up to its first step, so that a test can look into it."""

    def ready(
        recipe: dict[str, Any], data: dict[str, Any], *observers: object, inline: tuple[Path, ...] = ()
    ) -> Stages:
        resolved = with_batch_sizes(resolve(recipe_file.from_dict(recipe), Catalogue.discover(inline=inline)), 1)
        told = Observers([(type(observer).__name__, observer) for observer in observers], pytest.fail)
        torch.manual_seed(resolved.recipe.seed)
        material = assembly.assemble(resolved, host_data=data, trust_remote_code=False)
        return Stages(material, find_machine("fp32"), told, RunFolder(tmp_path))

    return ready


@pytest.fixture(scope="module")
def deep(models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny models with four layers, so that there is a middle."""
    folder, found = tmp_path_factory.mktemp("deep"), {}
    kinds: dict[str, tuple[Any, Any]] = {
        "bert": (BertConfig, BertForMaskedLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    for name, (config, kind) in kinds.items():
        found[name] = folder / name
        shutil.copytree(models[name], found[name])
        (found[name] / "model.safetensors").unlink()
        torch.manual_seed(2)
        kind(config.from_pretrained(models[name], num_hidden_layers=4)).save_pretrained(found[name])
    return found


@pytest.fixture
def steps_by_processes(tmp_path: Path) -> Callable[[dict[str, Any]], Iterator[tuple[dict[str, Any], dict[str, Any]]]]:
    """Runs a recipe that logs each step in one process and in two; the steps of both, side by side."""

    def steps(recipe: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        seen = []
        for processes in ("1", "2"):
            options = ["run", "recipe.json", "--out", processes, "--processes", processes]
            command = [sys.executable, "-m", "hft_core", *options]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            lines = [json.loads(line) for line in (tmp_path / processes / "log.jsonl").read_text().splitlines()]
            seen.append([line for line in lines if line["event"] == "step"])
        return zip(*seen, strict=True)

    return steps


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
