"""Start, stop and find the process of a run: its number is in the run's folder, so that any server knows it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hft_core.errors import UsageError
from hft_core.runtime.run_folder import LOCK_FILE

PROCESS_FILE, CONSOLE_FILE = "process.json", "console.txt"
_started: dict[int, subprocess.Popen[bytes]] = {}
"""Processes that this one started, so that it can collect them when they end."""


def start(folder: Path, command: Sequence[str], working_folder: Path) -> None:
    """Start `hft …` in a session of its own, writing to the folder's console file; it outlives this process."""
    if is_alive(folder):
        raise UsageError("the run is running already")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / CONSOLE_FILE, "ab") as console:
        process = subprocess.Popen(
            [sys.executable, "-m", "hft_core", *command],
            cwd=working_folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    _started[process.pid] = process
    facts = {"pid": process.pid, "started": _start_of(process.pid), "time": time.time(), "command": list(command)}
    partial = folder / f".{PROCESS_FILE}.{os.getpid()}"
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(folder / PROCESS_FILE)


def stop(folder: Path) -> None:
    """Ask the run's process to save and stop. Raises `UsageError` where no page has started one."""
    pid = _pid(folder)
    if pid is None:
        raise UsageError("no process of this page is running it")
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def is_alive(folder: Path) -> bool:
    """Return whether a process works in the folder, whoever started it."""
    return _pid(folder) is not None or _is_locked(folder / LOCK_FILE)


def can_be_stopped(folder: Path) -> bool:
    """Return whether `stop` would find a process."""
    return _pid(folder) is not None


def _pid(folder: Path) -> int | None:
    """Return the number of the process that was started for the folder, if it is alive and no other has its number."""
    try:
        facts: dict[str, Any] = json.loads((folder / PROCESS_FILE).read_text(encoding="utf-8"))
        pid, started = int(facts["pid"]), facts["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if pid in _started:
        _started[pid].poll()  # collects it, if it has ended
    return pid if pid > 1 and started is not None and _start_of(pid) == started else None


def _start_of(pid: int) -> str | None:
    """Return when a process began, as the system counts; None when it is not alive."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return _start_without_proc(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _start_without_proc(pid: int) -> str | None:
    if Path("/proc/self").exists():
        return None
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _is_locked(path: Path) -> bool:
    """Return whether another process holds the run's lock; a killed one leaves the file, but not the lock."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
