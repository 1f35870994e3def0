"""Environments in which a run cannot begin or be resumed, and runs that are told to end."""

from __future__ import annotations

from .case import Case, nothing, replace, write

RUN = "run recipe.yaml --out new"
ENDING = """
import os, signal
from hft_core import hookimpl

@hookimpl
def hft_step_finished(event):
    os.kill(os.getpid(), signal.{signal})
"""

CASES = [
    Case(
        what="more processes than were started",
        given=nothing,
        command=RUN,
        variables={"WORLD_SIZE": "2", "RANK": "0"},
        says="…2 processes …: start hft with 'hft run --processes N' or torchrun",
        process=True,
    ),
    Case(
        what="a number of processes that is none",
        given=nothing,
        command=RUN,
        variables={"WORLD_SIZE": "two"},
        says="the environment variable WORLD_SIZE is 'two': expected a whole number >= 1",
    ),
    Case(
        what="a rank that is no number",
        given=nothing,
        command=RUN,
        variables={"WORLD_SIZE": "1", "RANK": "first"},
        says="the environment variable RANK is 'first': expected a whole number >= 0",
        process=True,
    ),
    Case(
        what="a rank beyond the processes",
        given=nothing,
        command=RUN,
        variables={"WORLD_SIZE": "2", "RANK": "2"},
        says="the environment says that this is process 2 of 2 (RANK, WORLD_SIZE): expected one from 0 to 1",
    ),
    Case(
        what="a hub id without a network",
        given=replace("recipe.yaml", "backbone: model", "backbone: nobody/nothing"),
        command="validate recipe.yaml",
        variables={"HF_HUB_OFFLINE": "1"},
        says="recipe.yaml, line 1, backbone: no backbone opens 'nobody/nothing' (known: …); it is neither a "
        "file or folder nor a model of the hub (not asked, since HF_HUB_OFFLINE is set)…",
        process=True,
    ),
    Case(
        what="a list to block that is none",
        given=nothing,
        command="validate recipe.yaml",
        variables={"HFT_BLOCK": "a b"},
        says="HFT_BLOCK: 'a b' is not the name of a distribution (letters, digits, '-', '_' and '.')",
    ),
    Case(
        what="a list to allow that is none",
        given=nothing,
        command="list-plugins",
        variables={"HFT_ALLOW": "../x"},
        says="HFT_ALLOW: '../x' is not the name of a distribution (letters, digits, '-', '_' and '.')",
    ),
    Case(
        what="a full disk while a checkpoint is saved",
        given=replace("recipe.yaml", "stages:", "output: {save_strategy: steps, save_steps: 1}\nstages:"),
        command=RUN,
        code=1,
        largest_file=16_384,
        says="new/checkpoints: a checkpoint cannot be written: …File too large…",
        process=True,
    ),
    Case(
        what="a full disk while predictions are written",
        given=nothing,
        command="predict done --task topic --input news.csv --output out.jsonl",
        code=1,
        needs=("done",),
        largest_file=512,
        says="out.jsonl.part cannot be written: File too large",
    ),
    Case(
        what="SIGTERM while it trains",
        given=write("end.py", ENDING.format(signal="SIGTERM")),
        command=f"--plugin end.py {RUN}",
        code=143,
        says="stopped by SIGTERM; resume with: hft resume new",
        process=True,
    ),
    Case(
        what="SIGINT while it trains",
        given=write("end.py", ENDING.format(signal="SIGINT")),
        command=f"--plugin end.py {RUN}",
        code=130,
        says="stopped by SIGINT; resume with: hft resume new",
        process=True,
    ),
]
