"""Two hosts: each with a network, a home and a working folder of its own, joined by torchrun's rendezvous.

The hosts are network namespaces with a cable between them where this user may make such; otherwise two agents on the
loopback device. What a run says names which.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hft_core.cli.launch import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 240
"""Seconds that a run of two hosts may take."""


@dataclass(frozen=True)
class Host:
    """A machine as far as a run can tell."""

    folder: Path
    address: str
    enter: tuple[str, ...]
    """What a command is started with to run on it."""
    device: str
    """Of its network."""
    leads: bool
    """Whether the rendezvous is here. An agent finds that out by its host's name, and both have this machine's."""

    def start(self, port: int, first: str, *arguments: object) -> subprocess.Popen[str]:
        """`hft` under torchrun, as the page on many nodes shows it, in a process group of its own."""
        agent = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:{port}", "--rdzv-id", "hosts"),
            *("--rdzv-conf", f"is_host={int(self.leads)},timeout=60", "--local-addr", self.address, "-m", "hft_core"),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
            "HOME": str(self.folder),
            "HFT_CACHE": str(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "GLOO_SOCKET_IFNAME": self.device,
        }
        return subprocess.Popen(
            [*self.enter, *agent, *map(str, arguments)],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _ip(*arguments: str) -> bool:
    try:
        return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    place = tmp_path_factory.mktemp("hosts")
    spaces = [f"hft-{os.getpid()}-{number}" for number in range(2)]
    folders = [place / "first", place / "second"]
    for folder in folders:
        folder.mkdir()
    try:
        if not _joined(spaces):
            print("two agents on the loopback device: this user may not make network namespaces")
            yield tuple(Host(f, "127.0.0.1", (), "lo", f == folders[0]) for f in folders)  # type: ignore[misc]
            return
        print("two network namespaces with a cable between them")
        yield tuple(  # type: ignore[misc]
            Host(folder, f"10.231.77.{number}", ("ip", "netns", "exec", space), "cable", number == 1)
            for number, (folder, space) in enumerate(zip(folders, spaces, strict=True), start=1)
        )
    finally:
        for space in spaces:
            _ip("netns", "del", space)


def _joined(spaces: list[str]) -> bool:
    """Make two network namespaces with a cable between them; whether that went."""
    first, second = spaces
    return (
        all(_ip("netns", "add", space) for space in spaces)
        and _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        and all(
            _ip("-n", space, "addr", "add", f"10.231.77.{number}/24", "dev", "cable")
            and _ip("-n", space, "link", "set", "cable", "up")
            and _ip("-n", space, "link", "set", "lo", "up")
            for number, space in enumerate(spaces, start=1)
        )
    )


@pytest.fixture(scope="module")
def recipe(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its data and its model, at the same place on both hosts."""
    place = tmp_path_factory.mktemp("same")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(120)))
    content = {
        "backbone": {"model": str(models["bert"]), "dropout": 0.0},
        "tasks": {
            "topic": {"head": "classification", "data": "rows.jsonl"},
            "language": {"head": "mlm", "data": "rows.jsonl"},
        },
        "stages": [{"max_steps": 60, "train_batch_size": 16, "learning_rate": 1e-4, "adam_epsilon": 1e-4}],
        "precision": "fp32",
        "output": {"logging_steps": 1, "save_strategy": "steps", "save_steps": 10},
    }
    (place / "recipe.yaml").write_text(json.dumps(content))
    return place / "recipe.yaml"


def together(hosts: tuple[Host, Host], *arguments: object) -> list[tuple[int, str]]:
    """Run the same line on both hosts; the exit codes, and all that was said."""
    port = free_port()
    started = [host.start(port, hosts[0].address, *arguments) for host in hosts]
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in started]
        return [(process.returncode, text) for process, text in zip(started, said, strict=True)]
    finally:
        for process in started:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Take a host's power away: the agent's, and that of the processes that it started in sessions of their own."""
    for each in (process.pid, *_below(process.pid)) if process.poll() is None else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    process.wait()


def _below(parent: int) -> list[int]:
    """The processes that `parent` started, and those that they did."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            children.setdefault(int((entry / "stat").read_text().rpartition(")")[2].split()[1]), []).append(
                int(entry.name)
            )
    found = children.get(parent, [])
    return [*found, *(each for child in found for each in _below(child))]


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


@pytest.fixture(scope="module")
def whole(hosts: tuple[Host, Host], recipe: Path) -> Path:
    """The folder of a run of both hosts that nothing stopped."""
    for code, said in together(hosts, "run", recipe, "--out", "whole"):
        assert code == 0, said[-3000:]
    return hosts[0].folder / "whole"


def test_two_hosts_equal_one_process_and_only_the_first_writes(
    hosts: tuple[Host, Host], recipe: Path, whole: Path, tmp_path: Path
) -> None:
    import hft_core

    hft_core.run(recipe, output=tmp_path / "one")
    ours, theirs = losses(whole), losses(tmp_path / "one")
    assert len(ours) == len(theirs) == 60
    assert max(abs(a[task] - b[task]) for a, b in zip(ours[:10], theirs[:10], strict=True) for task in a) < 1e-5
    two, one = weights(whole), weights(tmp_path / "one")
    assert two.keys() == one.keys()
    assert max(float((two[name] - one[name]).abs().max()) for name in two) < 1e-4
    assert not (hosts[1].folder / "whole").exists()


def test_after_one_host_has_gone_both_go_on_bit_for_bit(hosts: tuple[Host, Host], recipe: Path, whole: Path) -> None:
    line = ("run", recipe, "--out", "stopped", "--resume")
    port, folder = free_port(), hosts[0].folder / "stopped"
    first, second = (host.start(port, hosts[0].address, *line) for host in hosts)
    try:
        until = time.monotonic() + LIMIT
        while not ((folder / "log.jsonl").exists() and len(losses(folder)) > 25):
            assert first.poll() is None, first.communicate()[0][-3000:]
            assert time.monotonic() < until
            time.sleep(0.02)
        _end(second)
        assert first.wait(LIMIT) != 0, "a host that is left alone must not train on"
    finally:
        _end(first)
        _end(second)
    assert not (folder / "results.json").exists()
    said = "".join(said for _, said in together(hosts, *line))
    assert "process 1 finds the checkpoint none in 'stopped', and process 0 finds 0000-000000" in said
    shutil.copytree(folder, hosts[1].folder / "stopped")
    for code, said in together(hosts, *line):
        assert code == 0, said[-3000:]
    ours, theirs = weights(folder), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(folder) == losses(whole)


def test_a_host_with_other_rows_is_told(hosts: tuple[Host, Host], recipe: Path) -> None:
    rows = (recipe.parent / "rows.jsonl").read_text().splitlines(keepends=True)
    for number, host in enumerate(hosts):
        (host.folder / "mine.jsonl").write_text("".join(rows[number:100]))
    (link,) = {recipe.parent / "mine.jsonl"}
    link.symlink_to("/proc/self/cwd/mine.jsonl")  # another file for each host, under one name
    said = "".join(
        said
        for _, said in together(
            hosts, "run", recipe, "--out", "odd", "--set", f"tasks.topic.data={link}", "--set", "stages.0.max_steps=2"
        )
    )
    assert "process 1 has another input than process 0 (the rows of task 'topic', train" in said
