"""Render a chat template once in a process of its own, with limits of time and memory.

Templates come with models and are programs: one that writes without end fills the memory, or aborts the process, before
anything can be refused. A process that is a copy of this one renders a short conversation first.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

SECONDS = 10.0
"""Time for a few short conversations, which a template writes in milliseconds."""
BYTES = 1 << 30
"""Memory for them, beyond what the process has."""
LONGEST = 1 << 24
"""Characters of a conversation of a few words."""
FINE, TOO_LONG = 0, 3
"""Exit codes of the trial; whatever ends it otherwise (a lack of memory, an abort, a limit) is too much as well."""


def refuse_endless(render: Callable[[], str]) -> None:
    """Raise `ValueError` where `render` takes more than `SECONDS`, `BYTES` or `LONGEST`, or ends its process.

    An error that it raises is not looked at. Does nothing on systems without `fork`.
    """
    if not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        _try(render)
    code = _wait(process)
    if code != FINE:
        what = "no end of" if code is None else "more than 16 million characters of" if code == TOO_LONG else "too much"
        raise ValueError(
            f"the backbone's chat template writes {what} text for a conversation of a few words ({SECONDS:.0f} s and "
            f"{BYTES >> 30} GiB are allowed); take another template or model"
        )


def _try(render: Callable[[], str]) -> None:
    """Render under limits, and end this process."""
    code = FINE
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _limit()
        code = TOO_LONG if len(render()) > LONGEST else FINE
    except MemoryError:
        code = TOO_LONG
    except BaseException:  # a template that cannot write this conversation may still write others
        code = FINE
    finally:
        os._exit(code)


def _limit() -> None:
    """Limit memory and processor time of this process, where the system can."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _wait(process: int) -> int | None:
    """Return the exit code of a process (negative for the signal that ended it); None when it had to be killed."""
    end, pause = time.monotonic() + SECONDS, 0.001
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(0.05, 2 * pause)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None
