"""The launcher `slurm`, with mocks of Slurm's commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hft_core import HftError
from hft_core.launcher import Slot
from hft_plugins.launchers import slurm


@pytest.fixture
def cluster(slurm_commands: Path) -> Path:
    """The folder of the mock cluster's jobs."""
    return slurm_commands


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


def launched(log: Path, script: str = "", **options: object) -> slurm.Job:
    launcher = slurm.build(slurm.Options.model_validate(options))
    handle = launcher.launch([sys.executable, "-c", script], Slot(0, 4), log)
    assert isinstance(handle, slurm.Job)
    return handle


def test_a_job_asks_for_what_the_options_say(cluster: Path, tmp_path: Path) -> None:
    job = launched(tmp_path / "a.log", partition="gpu", gpus=1, minutes=90, memory="16G", cpus=8)
    asked = (cluster / "jobs" / job.number / "options").read_text().splitlines()
    wanted = {"partition=gpu", "gpus=1", "time=90", "mem=16G", "cpus-per-task=8", "signal=B:TERM@120"}
    assert wanted <= set(asked)
    assert not any(line.startswith(("account", "qos")) for line in asked)
    wait(lambda: job.poll() == 0)


def test_a_waiting_job_is_found_again_instead_of_submitted_twice(cluster: Path, tmp_path: Path) -> None:
    (cluster / "hold").touch()
    first = launched(tmp_path / "a.log")
    assert first.poll() is None
    again = launched(tmp_path / "a.log")
    assert again.number == first.number
    again.stop()
    (cluster / "hold").unlink()
    wait(lambda: again.poll() == 1)  # cancelled before it began
    assert not (tmp_path / "a.log").exists()
    assert launched(tmp_path / "a.log").number != first.number


def test_a_controller_that_does_not_answer_ends_no_job(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = launched(tmp_path / "a.log", "import time; time.sleep(2)")
    squeue = cluster / "bin/squeue"
    sound = squeue.read_text()
    squeue.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert job.poll() is None
    squeue.write_text(sound)
    wait(lambda: job.poll() == 0)


def test_what_slurm_refuses_is_one_line(cluster: Path, tmp_path: Path) -> None:
    (cluster / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(HftError, match="sbatch failed: sbatch: error: invalid partition specified: x"):
        launched(tmp_path / "a.log", partition="x")


def test_a_machine_without_slurm_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HftError, match="the launcher 'slurm' needs the command sbatch"):
        launched(tmp_path / "a.log")
