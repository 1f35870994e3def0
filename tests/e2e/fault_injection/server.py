"""Start runs whose writes fail: `python server.py` reads one job a line and answers each with one.

The process has the shim preloaded and has imported everything; each run is a fork of it. A job is `{"arguments",
"printed", "folder", "number", "error", "forever", "trace", "unsynced"}`: the command line, the file for what it prints,
what `fault_arm` takes, and a file or folder that is never synced (the end of its path). The answer is
`{"code", "calls"}`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import partial
from typing import Any

from preloaded import redirect_output, run_command, serve


def child(job: dict[str, Any], shim: ctypes.CDLL, report: int) -> int:
    """Run the command line of a job in this process, and return its exit code."""
    redirect_output(job["printed"])
    if job["unsynced"]:
        _sync_all_but(job["unsynced"])
    arm = [job["folder"].encode(), job["number"], job["error"], job["forever"], job["trace"].encode()]
    shim.fault_arm(ctypes.c_char_p(arm[0]), ctypes.c_long(arm[1]), arm[2], arm[3], ctypes.c_char_p(arm[4]))
    code = run_command(job["arguments"])
    sys.stdout.flush()
    os.write(report, str(shim.fault_calls()).encode())
    return code


def _sync_all_but(ending: str) -> None:
    """Let the process be one that forgot to sync the files whose path ends so."""
    fsync = os.fsync

    def forgetful(file: int) -> None:
        if not os.readlink(f"/proc/self/fd/{file}").endswith(ending):
            fsync(file)

    os.fsync = forgetful  # type: ignore[assignment]


def answer(job: dict[str, Any], shim: ctypes.CDLL) -> dict[str, int]:
    """Run a job in a fork of this process."""
    told, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = child(job, shim, report)
        finally:
            os._exit(code)
    os.close(report)
    calls = b"".join(iter(lambda: os.read(told, 64), b""))
    os.close(told)
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "calls": int(calls or b"0")}


if __name__ == "__main__":
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.fault_calls.restype = ctypes.c_long
    serve(partial(answer, shim=shim))
