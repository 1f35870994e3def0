"""Runs on tiny models, ready up to their first step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from hft_core import hookimpl
from hft_core.cli.launch import free_port
from hft_core.device.machine import find_machine
from hft_core.launcher import THREAD_VARIABLES
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.observers import Observers
from hft_core.recipe import recipe_file
from hft_core.recipe.batch_size import with_batch_sizes
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.runs.stages import Stages
from hft_core.runtime.run_folder import RunFolder

ROOT = Path(__file__).parents[2]


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


class Commands:
    """Runs command lines of `hft` as forks of a process that has imported everything (`preloaded.py`): alike to
    processes of their own, without the seconds of each start."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "printed"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        script = [sys.executable, str(Path(__file__).with_name("preloaded.py"))]
        self.server = subprocess.Popen(
            script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def __call__(self, *arguments: str, code: int = 0, environment: dict[str, str] | None = None) -> str:
        """Run `hft` with the arguments, which has to end with the exit code `code`; return all that is printed."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self._log.unlink(missing_ok=True)
        job = {"arguments": arguments, "log": str(self._log), "environment": environment or {}}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        printed = self._log.read_text()
        assert answer["code"] == code, printed[-3000:]
        return printed


@pytest.fixture(scope="session")
def hft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    assert commands.server.stdin is not None
    commands.server.stdin.close()
    commands.server.wait(30)


@pytest.fixture
def start_hft() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command line, whose words begin with `hft`, in a folder."""

    def start(words: Sequence[str], folder: Path, threads: int = 1) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hft_core", *words[1:]],
            cwd=folder,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def in_two_processes() -> Callable[..., list[tuple[str, int]]]:
    """Runs a script in two processes of one process group; what each prints, and its exit code."""

    def run(script: Path, *arguments: str, **environment: str) -> list[tuple[str, int]]:
        common = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            **environment,
        }
        started = [
            subprocess.Popen(
                [sys.executable, str(script), *arguments],
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        return [(process.communicate(timeout=300)[0].strip(), process.returncode) for process in started]

    return run


@pytest.fixture
def steps_by_processes(
    tmp_path: Path, hft: Commands
) -> Callable[[dict[str, Any]], Iterator[tuple[dict[str, Any], dict[str, Any]]]]:
    """Runs a recipe that logs each step in one process and in two; the steps of both, side by side."""

    def steps(recipe: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(recipe))
        seen = []
        for processes in ("1", "2"):
            hft("run", str(path), "--out", str(tmp_path / processes), "--processes", processes)
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
