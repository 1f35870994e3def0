"""Check launchers: each starts commands, tells how they ended, and asks a running one to stop."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hft_core.launcher import Handle, Launcher, Slot
from hft_core.testing.check import Check, Subject, check, expect

CHECKS: list[Check] = []
WAIT_SECONDS = 120.0
"""For a command of a moment: jobs of a cluster may queue."""
LOG_SECONDS = 5.0
"""Between the end of a command and its last line in the log, on a file system of a network."""
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
print("started", flush=True)
try:
    time.sleep(300)
except KeyboardInterrupt:
    print("saved", flush=True)
"""


@check("launcher", CHECKS)
def slots_are_counted(subject: Subject) -> None:
    """It has as many slots as are asked for, or some by default, each with threads and a number of its own."""
    launcher = _launcher(subject)
    expect(len(launcher.slots(3)) == 3, "3 slots", str(len(launcher.slots(3))))
    slots = launcher.slots(None)
    expect(bool(slots) and len({slot.index for slot in slots}) == len(slots), "slots that are numbered", repr(slots))
    expect(all(slot.threads >= 1 for slot in slots), "at least one thread in each slot", repr(slots))


@check("launcher", CHECKS)
def a_command_writes_its_log(subject: Subject) -> None:
    """A command ends with 0, and its output and errors are appended to the log, whose folder is made; arguments arrive
    as they are, with blanks, quotes and `$`."""
    words = ["a b", "it's", '"$HOME"', "%j", "*"]
    script = "import sys; print(sys.argv[1:]); print('told', file=sys.stderr)"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        log = Path(place) / "logs" / "run 1%.log"
        handle = _launcher(subject).launch([sys.executable, "-c", script, *words], Slot(0, 1), log)
        code = _ended(handle)
        expect(code == 0, "the exit code 0", repr(code))
        _wait(lambda: log.is_file() and "told" in log.read_text(encoding="utf-8"), LOG_SECONDS)
        said = log.read_text(encoding="utf-8") if log.is_file() else "no log"
        expect(repr(words) in said and "told" in said, f"a log with {words!r} and 'told'", repr(said))


@check("launcher", CHECKS)
def a_command_that_fails_says_so(subject: Subject) -> None:
    """A command that fails has another exit code than 0."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        argv = [sys.executable, "-c", "raise SystemExit(3)"]
        code = _ended(_launcher(subject).launch(argv, Slot(0, 1), Path(place) / "log"))
        expect(bool(code), "another exit code than 0", repr(code))


@check("launcher", CHECKS)
def a_command_has_the_threads_of_its_slot(subject: Subject) -> None:
    """The environment says how many threads to compute with."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        launcher, log = _launcher(subject), Path(place) / "log"
        slot = launcher.slots(1)[0]
        argv = [sys.executable, "-c", "import os; print('threads', os.environ.get('OMP_NUM_THREADS'))"]
        _ended(launcher.launch(argv, slot, log))
        _wait(lambda: log.is_file() and "threads" in log.read_text(encoding="utf-8"), LOG_SECONDS)
        said = log.read_text(encoding="utf-8").strip()
        expect(said == f"threads {slot.threads}", f"OMP_NUM_THREADS={slot.threads}", said)


@check("launcher", CHECKS)
def a_command_can_save_when_it_is_stopped(subject: Subject) -> None:
    """`stop` sends a signal that the command can catch (SIGINT or SIGTERM), and may be called again at the end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        log = Path(place) / "log"
        handle = _launcher(subject).launch([sys.executable, "-c", SAVES], Slot(0, 1), log)
        expect(_wait(lambda: log.is_file() and "started" in log.read_text(encoding="utf-8")), "a start", "none")
        expect(handle.poll() is None, "None while the command runs", repr(handle.poll()))
        handle.stop()
        expect(_ended(handle) is not None, "an end after stop", "a command that still runs")
        _wait(lambda: "saved" in log.read_text(encoding="utf-8"), LOG_SECONDS)
        said = log.read_text(encoding="utf-8")
        expect("saved" in said, "a command that has saved", repr(said))
        handle.stop()


def _launcher(subject: Subject) -> Launcher:
    launcher = subject.build()
    expect(isinstance(launcher, Launcher), "a Launcher", type(launcher).__name__)
    return launcher  # type: ignore[no-any-return]


def _ended(handle: Handle) -> int | None:
    _wait(lambda: handle.poll() is not None)
    return handle.poll()


def _wait(done: Callable[[], bool], seconds: float = WAIT_SECONDS) -> bool:
    """Return whether it was done in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.05)
    return False
