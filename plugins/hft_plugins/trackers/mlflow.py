"""The tracker `mlflow`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from pydantic import Field

from hft_core import options
from hft_core.tracker import TrackedRun, Tracker

LONGEST = 500
"""Characters of a parameter that every MLflow store takes."""
MOST = 100
"""Parameters in one request."""
_ALLOWED = frozenset("_-./: ")


class Options(options.Options):
    """Where the run is recorded."""

    tracking_uri: str | None = Field(
        default=None, description="server, database or folder; by default MLFLOW_TRACKING_URI, else the run's folder"
    )
    experiment: str = Field(default="hft", min_length=1, description="experiment; made if it does not exist")


def build(options: Options, *, run: TrackedRun) -> Tracker:
    return Mlflow(options, run)


class Mlflow(Tracker):
    """Records in a run of MLflow, without the process-wide active run."""

    def __init__(self, options: Options, run: TrackedRun) -> None:
        place = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # since 3.17 it refuses folders otherwise
            place = run.folder.resolve().as_uri()
        self._client = MlflowClient(tracking_uri=place)
        if run.identity:
            self.identity = run.identity
            self._client.update_run(self.identity, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(options.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(options.experiment)
        self.identity = self._client.create_run(experiment, run_name=run.name).info.run_id
        # A value that is too long would be refused; the whole recipe is a file of the run.
        given = [Param(_name(key), str(value)) for key, value in run.settings.items() if len(str(value)) <= LONGEST]
        for start in range(0, len(given), MOST):
            self._client.log_batch(self.identity, params=given[start : start + MOST])
        self._client.log_text(self.identity, run.recipe, "recipe.yaml")

    def record(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self.identity, metrics=[Metric(_name(k), v, now, step) for k, v in values.items()])

    def finish(self, *, failed: bool) -> None:
        self._client.set_terminated(self.identity, "FAILED" if failed else "FINISHED")


def _name(text: str) -> str:
    """Return a name with `_` for the characters that MLflow refuses."""
    return "".join(c if c.isalnum() or c in _ALLOWED else "_" for c in text)
