"""Say how a run is doing, from the files in its folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hft_core.runtime.run_folder import CARD_FILE, CHECKPOINT_FOLDER, LOG_FILE, RECIPE_FILE, RESULTS_FILE
from hft_core.sanitize import without_controls, without_passwords
from hft_core.ui.run_process import CONSOLE_FILE, PROCESS_FILE, can_be_stopped, is_alive
from hft_core.ui.workspace import read_object

State = Literal["finished", "running", "stopped", "dead"]
ENDING = ("run_failed", "run_started", "stage_started", "step")
"""Events of which the last one says how a run ended: an earlier failure is not that of a resumed run."""
TAIL = 20_000
"""Bytes that are read from the end of a log or console."""


@dataclass
class RunState:
    """A run, as the list of runs shows it."""

    name: str
    state: State
    stage: str = ""
    step: int = 0
    steps: int = 0
    updated: float = 0.0
    tasks: list[str] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    """By split, task and metric."""
    can_stop: bool = False
    can_resume: bool = False
    message: str = ""
    """Why it ended, where it did without results."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def state_of(folder: Path, name: str) -> RunState:
    """Read the state of a run."""
    results = read_object(folder / RESULTS_FILE)
    events = last_events(folder / LOG_FILE)
    found = RunState(name, "dead", updated=_updated(folder))
    for event in events:
        if event.get("event") == "stage_started":
            found.stage, found.steps, found.tasks = str(event.get("name")), int(event.get("steps") or 0), []
        if event.get("event") == "step":
            found.stage, found.step, found.steps = str(event.get("stage")), int(event["step"]), int(event["steps"])
    if results:
        found.state, found.scores = "finished", results.get("final", {})
        found.tasks = sorted({task for scores in found.scores.values() for task in scores})
        return found
    if is_alive(folder):
        found.state, found.can_stop = "running", can_be_stopped(folder)
        return found
    last: dict[str, Any] = next((event for event in reversed(events) if event.get("event") in ENDING), {})
    began = read_object(folder / PROCESS_FILE).get("time", 0.0)  # a process that was killed early has logged nothing
    if last.get("event") == "run_failed" and last.get("time", 0.0) >= began:
        found.message = str(last.get("error", ""))
    found.message = found.message or last_line(console_of(folder)) or "its process has ended without a word"
    if found.message.startswith("Interrupted"):
        found.state = "stopped"
    found.can_resume = (folder / RECIPE_FILE).is_file()
    return found


def details(folder: Path, name: str) -> dict[str, Any]:
    """Return what the page of one run shows."""
    results = read_object(folder / RESULTS_FILE)
    return {
        **state_of(folder, name).to_json(),
        "recipe": text_of(folder / RECIPE_FILE, 200_000),
        "card": text_of(folder / CARD_FILE, 200_000),
        "console": console_of(folder),
        "warnings": results.get("warnings", []),
        "report": (folder / "report.html").is_file(),
        "checkpoint": (folder / CHECKPOINT_FOLDER).is_dir(),
    }


def console_of(folder: Path) -> str:
    """Return the end of what a run's process has printed."""
    return without_passwords(without_controls(_tail(folder / CONSOLE_FILE)))


def text_of(path: Path, limit: int) -> str:
    """Return the beginning of a text file; empty where there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return without_passwords(without_controls(file.read(limit)))
    except OSError:
        return ""


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def last_events(path: Path) -> list[dict[str, Any]]:
    """Return the events at the end of a log."""
    found = []
    for line in _tail(path).splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # the first line may be cut, and the last one be half written
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return ""


def _updated(folder: Path) -> float:
    files = [folder / name for name in (LOG_FILE, PROCESS_FILE, RESULTS_FILE)]
    return max(os.stat(path).st_mtime for path in (folder, *files) if path.exists())
