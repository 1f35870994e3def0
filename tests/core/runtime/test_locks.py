"""Lock files: one holder at a time, released with the process that held them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hft_core.runtime import locks, signals
from hft_core.runtime.locks import LockedError, locked

HOLD = """
import sys, time
from pathlib import Path
from hft_core.runtime.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_held_lock_is_refused_and_leaves_no_file_when_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path):
        assert path.exists()
        with pytest.raises(LockedError), locked(path):
            pytest.fail("the lock was held twice")
    assert not path.exists()
    with locked(path):
        pass


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError), locked(path):
        pytest.fail("two processes hold the lock")
    holder.kill()
    holder.communicate()
    assert path.exists()
    with locked(path):
        pass


def test_a_lock_may_be_released_by_another_thread(tmp_path: Path) -> None:
    """A session that one thread opens and another closes."""
    path = tmp_path / ".lock"
    lock = locked(path)
    lock.__enter__()
    closing = threading.Thread(target=lock.__exit__, args=(None, None, None))
    closing.start()
    closing.join()
    with locked(path):
        pass


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("content")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / ".lock"):
        pytest.fail("the link was followed")
    assert target.read_text() == "content"


def test_a_signal_ends_the_wait_for_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(signals, "_received", [15])
        with pytest.raises(signals.Interrupted), locked(path, wait=True):
            pytest.fail("the lock was free")
    finally:
        holder.kill()
        holder.communicate()
