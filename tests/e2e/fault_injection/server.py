"""Start runs whose writes fail: `python server.py` reads one job a line and answers each with one.

The process has the shim preloaded and has imported everything; each run is a fork of it. A job is `{"arguments",
"printed", "folder", "number", "error", "forever", "trace"}`: the command line, the file for what it prints, and what
`fault_arm` takes. The answer is `{"code", "calls"}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import peft
import torch
import torchjd
import transformers.models.bert.modeling_bert

from hft_core.cli import app, run
from hft_core.runs import runner
from hft_plugins.backbones import encoder
from hft_plugins.heads import classification, mlm, regression

IMPORTED = (
    run,
    runner,
    peft,
    torchjd,
    transformers.models.bert.modeling_bert,
    encoder,
    classification,
    mlm,
    regression,
)
"""What a run imports only when it begins."""


def child(job: dict[str, Any], shim: ctypes.CDLL, report: int) -> int:
    """Run the command line of a job in this process, and return its exit code."""
    printed = os.open(job["printed"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    arm = [job["folder"].encode(), job["number"], job["error"], job["forever"], job["trace"].encode()]
    shim.fault_arm(ctypes.c_char_p(arm[0]), ctypes.c_long(arm[1]), arm[2], arm[3], ctypes.c_char_p(arm[4]))
    code = app.main(job["arguments"])
    sys.stdout.flush()
    os.write(report, str(shim.fault_calls()).encode())
    return code


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
    torch.set_num_threads(1)
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    assert threads[1:] in ([], ["jemalloc_bg_thd"]), threads  # a fork has one thread; arrow's allocator knows of forks
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.fault_calls.restype = ctypes.c_long
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), shim)), flush=True)
