"""Mocks of sbatch, squeue and scancel, for tests: jobs are processes of this machine, kept in a folder.

They accept the options that `slurm` uses and no others. A file `hold` in the folder keeps new jobs pending.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scancel")
SBATCH = {
    *("partition", "account", "qos", "time", "mem", "gpus", "signal", "job-name", "cpus-per-task", "ntasks"),
    *("parsable", "output", "open-mode", "export", "wrap"),
}
UNKNOWN = "slurm_load_jobs error: Invalid job id specified"


def install(folder: Path) -> Path:
    """Write the commands into `folder`/bin and return it, to be put before the search path."""
    place = folder / "bin"
    place.mkdir(parents=True)
    for name in COMMANDS:
        path = place / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} {folder} "$@"\n')
        path.chmod(0o755)
    return place


def main(command: str, folder: Path, words: list[str]) -> int:
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    number = next((word for word in words if not word.startswith("--")), options.get("jobs", ""))
    job = folder / "jobs" / (number or "new")
    if command == "sbatch":
        return submit(folder, options)
    if not (job / "state").is_file():
        print(UNKNOWN, file=sys.stderr)
        return 1
    state = (job / "state").read_text()
    if command == "squeue":
        print(state)
    elif options.get("state") == state == "PENDING":
        (job / "state").write_text("CANCELLED")
    elif "signal" in options and state == "RUNNING":
        os.kill(int((job / "pid").read_text()), getattr(signal, f"SIG{options['signal']}"))
    return 0


def submit(folder: Path, options: dict[str, str]) -> int:
    if unknown := options.keys() - SBATCH:
        print(f"sbatch: unrecognized option '--{unknown.pop()}'", file=sys.stderr)
        return 1
    (folder / "jobs").mkdir(exist_ok=True)
    number = len(list((folder / "jobs").iterdir())) + 1
    job = folder / "jobs" / str(number)
    job.mkdir()
    (job / "options").write_text("\n".join(f"{key}={value}" for key, value in sorted(options.items())))
    (job / "state").write_text("PENDING")
    if os.fork() == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(quiet, descriptor)
        run(folder, job, options)
        os._exit(0)
    print(number)
    return 0


def run(folder: Path, job: Path, options: dict[str, str]) -> None:
    while (folder / "hold").exists():
        time.sleep(0.02)
    if (job / "state").read_text() == "CANCELLED":
        return
    with Path(options["output"].replace("%%", "%")).open("ab") as log:
        process = subprocess.Popen(["/bin/sh", "-c", options["wrap"]], stdout=log, stderr=log)
        (job / "pid").write_text(str(process.pid))
        (job / "state").write_text("RUNNING")
        code = process.wait()
    (job / "state").write_text("FAILED" if code else "COMPLETED")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
