"""Folders that hold no run, another one, a damaged one, or one that is not to be written over."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

from .case import Case, Change, nothing, remove, replace, shorten, write

EVALUATE = "evaluate done --task topic --data news.csv"


def held_by_another(folder: Path) -> None:
    """Locked as a run locks its folder; the lock lasts as long as this process."""
    handle = open(folder / "stopped" / ".lock", "a")  # noqa: SIM115
    fcntl.flock(handle, fcntl.LOCK_EX)
    HELD.append(handle)


HELD: list[object] = []


def every_checkpoint(file: str) -> Change:
    """Cut off the end of a file of all checkpoints."""

    def make(folder: Path) -> None:
        for path in folder.glob(f"stopped/checkpoints/????-????????/{file}"):
            path.write_bytes(path.read_bytes()[:-3])

    return make


def of_another_format(folder: Path) -> None:
    for path in folder.glob("stopped/checkpoints/????-????????/manifest.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


OPENED = [
    Case(what="no such folder", given=nothing, command="evaluate dnoe", says="dnoe: no such run folder…"),
    Case(
        what="a folder that holds no run",
        given=nothing,
        command="evaluate model",
        says="model is not a finished run: it has no recipe (recipe.yaml)",
    ),
    Case(
        what="a run that was not finished",
        given=nothing,
        command="evaluate stopped",
        needs=("stopped",),
        says="stopped is not a finished run: it has no results (results.json)…",
    ),
    Case(
        what="results that are no JSON",
        given=shorten("done/results.json"),
        command=EVALUATE,
        needs=("done",),
        says="done/results.json does not say which plugins the run used: …",
    ),
    Case(
        what="results of another shape",
        given=write("done/results.json", "[1, 2]"),
        command=EVALUATE,
        needs=("done",),
        says="done/results.json does not say which plugins the run used: …",
    ),
    Case(
        what="a damaged recipe",
        given=write("done/recipe.yaml", "backbone: [\n"),
        command=EVALUATE,
        needs=("done",),
        says="done/recipe.yaml, line 2: not valid YAML: …",
    ),
    Case(
        what="no facts of a task",
        given=remove("done/model/topic/task.json"),
        command=EVALUATE,
        needs=("done",),
        says="done/model/topic/task.json cannot be read: …",
    ),
    Case(
        what="facts of another shape",
        given=write("done/model/topic/task.json", '{"facts": {"labels": 3}}'),
        command=EVALUATE,
        needs=("done",),
        says="done/model: the facts of its tasks (task.json) cannot be used: TypeError: …",
    ),
    Case(
        what="weights cut short",
        given=shorten("done/model/topic/head.safetensors"),
        command=EVALUATE,
        needs=("done",),
        says="done/model/topic: its weights cannot be read: …",
    ),
    Case(
        what="no weights",
        given=remove("done/model/topic/head.safetensors"),
        command=EVALUATE,
        needs=("done",),
        says="done/model/topic: its weights cannot be read: …head.safetensors…",
    ),
    Case(
        what="the weights of another task",
        given=lambda folder: (folder / "done/model/topic/head.safetensors").write_bytes(
            (folder / "done/model/language/head.safetensors").read_bytes()
        ),
        command=EVALUATE,
        needs=("done",),
        says="done/model/topic: its weights cannot be read: …",
    ),
]

RESUMED = [
    Case(
        what="nothing to resume",
        given=nothing,
        command="resume model",
        says="'model' holds no run that had begun: it has no recipe.yaml",
    ),
    Case(
        what="resume of a finished run",
        given=nothing,
        command="resume done",
        needs=("done",),
        says="the run in 'done' is finished: there is nothing to resume",
    ),
    Case(
        what="resume with another recipe",
        given=nothing,
        command="run recipe.yaml --out stopped --resume",
        needs=("stopped",),
        says="the run in 'stopped' has another recipe than the one given: resume it with 'hft resume stopped', or "
        "give a "
        "new output folder",
    ),
    Case(
        what="resume after the recipe was changed",
        given=replace("stopped/recipe.yaml", "seed: 0", "seed: 1"),
        command="resume stopped",
        needs=("stopped",),
        says="…belongs to another recipe than the one given: resume it with its own, or start anew",
    ),
    Case(
        what="every checkpoint damaged",
        given=every_checkpoint("weights.safetensors"),
        command="resume stopped",
        needs=("stopped",),
        says="no checkpoint in stopped/checkpoints can be used (…: its file weights.safetensors is not as it was "
        "written); remove that folder to start the run anew",
    ),
    Case(
        what="every manifest damaged",
        given=every_checkpoint("manifest.json"),
        command="resume stopped",
        needs=("stopped",),
        says="no checkpoint in stopped/checkpoints can be used (…: its manifest cannot be read …); remove that "
        "folder to "
        "start the run anew",
    ),
    Case(
        what="checkpoints of another format",
        given=of_another_format,
        command="resume stopped",
        needs=("stopped",),
        says="no checkpoint in stopped/checkpoints can be used (…: it has format 99, and this hft reads format …); "
        "remove "
        "that folder to start the run anew",
    ),
    Case(
        what="a run that goes on elsewhere",
        given=held_by_another,
        command="resume stopped",
        needs=("stopped",),
        says="run folder 'stopped' is in use by another run",
    ),
]

WRITTEN = [
    Case(
        what="a folder that holds a run",
        given=nothing,
        command="run recipe.yaml --out done",
        needs=("done",),
        says="output folder 'done' holds recipe.yaml, results.json, log.jsonl, README.md, manifest.json, "
        "model…already: name another (a run overwrites nothing)",
        process=True,
    ),
    Case(
        what="a file in the place of the folder",
        given=nothing,
        command="run recipe.yaml --out news.csv",
        says="output folder 'news.csv' cannot be made: File exists",
    ),
    Case(
        what="a folder below a file",
        given=nothing,
        command="run recipe.yaml --out news.csv/new",
        says="output folder 'news.csv/new' cannot be made: Not a directory",
    ),
    Case(
        what="a folder that cannot be written to",
        given=nothing,
        command="run recipe.yaml --out /proc/new",
        says="output folder '/proc/new' cannot be made: …",
    ),
]

CASES = [*OPENED, *RESUMED, *WRITTEN]
