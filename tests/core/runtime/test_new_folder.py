"""A new folder is there once it is whole, and nothing stays of one whose process was killed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hft_core.runtime.new_folder import new_folder

BEGUN = """
import os, signal, sys, time
from pathlib import Path
from hft_core.runtime.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def begin(folder: Path) -> subprocess.Popen[str]:
    """A process that fills `folder`, and has begun to."""
    process = subprocess.Popen([sys.executable, "-c", BEGUN, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_is_being_filled_is_not(tmp_path: Path) -> None:
    for path in (tmp_path / ".new.notes", tmp_path / ".other.1"):
        path.mkdir()
    process = begin(tmp_path / "new")
    try:
        with new_folder(tmp_path / "new") as partial:
            assert names(tmp_path) == sorted([".new.notes", f".new.{process.pid}", partial.name, ".other.1"])
            partial.joinpath("file").write_text("whole")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == sorted([".new.notes", f".new.{process.pid}", ".other.1", "new"])
    (tmp_path / "new").rename(tmp_path / "old")
    with new_folder(tmp_path / "new"):
        pass
    assert names(tmp_path) == [".new.notes", ".other.1", "new", "old"]
    assert (tmp_path / "old" / "file").read_text() == "whole"


def test_a_folder_that_another_machine_fills_is_left_alone(tmp_path: Path) -> None:
    """Its process has a number that no process here has, and its lock."""
    path = tmp_path / ".new.99999999"
    path.mkdir()
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with new_folder(tmp_path / "new"):
            assert path.exists()
    finally:
        os.close(handle)
    with new_folder(tmp_path / "newer"):
        assert path.exists()


def test_nothing_stays_of_a_folder_that_fails(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "below" / "new") as partial:
            partial.joinpath("file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert names(tmp_path / "below") == []
