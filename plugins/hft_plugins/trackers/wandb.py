"""The tracker `wandb`: Weights & Biases."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Literal

import wandb
from pydantic import Field

from hft_core import options
from hft_core.tracker import TrackedRun, Tracker


class Options(options.Options):
    """Where the run is recorded."""

    project: str = Field(default="hft", min_length=1, description="project")
    entity: str | None = Field(default=None, description="user or team; by default, that of the login")
    group: str | None = Field(default=None, description="group of the run within the project")
    mode: Literal["online", "offline"] = Field(
        default="online", description="`offline` writes files only, for `wandb sync`"
    )


def build(options: Options, *, run: TrackedRun) -> Tracker:
    if options.mode == "online" and not wandb.api.api_key:
        # Without this, it would ask for a key in the terminal, in the middle of the run.
        raise RuntimeError("no API key: run 'wandb login', set WANDB_API_KEY, or give 'mode: offline'")
    return WeightsAndBiases(options, run)


class WeightsAndBiases(Tracker):
    """Records in a run of Weights & Biases with an id of its own."""

    def __init__(self, options: Options, run: TrackedRun) -> None:
        self.identity = run.identity or secrets.token_hex(4)
        self._run = wandb.init(
            project=options.project,
            entity=options.entity,
            group=options.group,
            id=self.identity,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            mode=options.mode,
            resume="allow",
            reinit="create_new",
            # Links in a run's folder would keep it from being resumed.
            settings=wandb.Settings(console="off", silent=True, symlink=False, disable_git=True, disable_code=True),
        )

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
