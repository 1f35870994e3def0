"""The tracker `trackio`: a local database, looked at with `trackio show`."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout

import trackio
from pydantic import Field

from hft_core import options
from hft_core.tracker import TrackedRun, Tracker


class Options(options.Options):
    """Where the run is recorded."""

    project: str = Field(default="hft", min_length=1, description="project; runs at the same time are best in one each")
    group: str | None = Field(default=None, description="group of the run within the project")
    space_id: str | None = Field(default=None, description="a Space of the hub to record in; by default, this machine")


def build(options: Options, *, run: TrackedRun) -> Tracker:
    return Trackio(options, run)


class Trackio(Tracker):
    """Records in a run of Trackio, whose name is its identity."""

    def __init__(self, options: Options, run: TrackedRun) -> None:
        self.identity = run.identity or f"{run.name}-{secrets.token_hex(4)}"
        with redirect_stdout(sys.stderr):  # it says where to look; standard output is for results
            self._run = trackio.init(
                project=options.project,
                name=self.identity,
                group=options.group,
                space_id=options.space_id,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def record(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, *, failed: bool) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()  # type: ignore[no-untyped-call, unused-ignore]
