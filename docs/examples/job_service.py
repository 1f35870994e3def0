"""A small service that trains recipes and answers predictions, for programs on the same machine.

    pip install hft-core fastapi uvicorn
    uvicorn --app-dir docs/examples --factory job_service:service --host 127.0.0.1

POST /jobs takes a recipe and rows by task, GET /jobs/{id} returns the job's progress, POST /jobs/{id}/predict takes a
task and rows. A request cannot name files or models: its recipe's `backbone` is one of the service's names, its tasks
have no `data`, and its plugins are those below.
"""

from __future__ import annotations

import math
import queue
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

import hft_core
from hft_core import Catalogue, Recipe, UsageError, events, hookimpl
from hft_core.predict import predict
from hft_core.recipe.recipe_file import from_dict
from hft_plugins import backbones, combiners, heads, strategies

Rows = list[dict[str, Any]]
HEADS, STRATEGIES = ("classification", "mlm"), ("full", "frozen", "lora")


class Offered:
    """The plugins of a job that could open files; only these, which open none."""

    @hookimpl
    def hft_heads(self) -> list[hft_core.HeadSpec]:
        return [spec for spec in heads.hft_heads() if spec.name in HEADS]

    @hookimpl
    def hft_strategies(self) -> list[hft_core.StrategySpec]:
        return [spec for spec in strategies.hft_strategies() if spec.name in STRATEGIES]


CATALOGUE = Catalogue.of(backbones, combiners, Offered())
"""Explicit: whatever else is installed beside the service is not looked at."""


@dataclass(eq=False)
class Job:
    """A job, and the observer of its run: what GET /jobs/{id} answers is what it was told last."""

    recipe: Recipe
    rows: Mapping[str, Rows]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: str = "queued"
    progress: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @hookimpl
    def hft_step_finished(self, event: events.StepFinished) -> None:
        losses = {task: loss for task, loss in event.losses.items() if math.isfinite(loss)}
        self.progress = {"stage": event.stage, "step": event.step, "steps": event.steps, "losses": losses}

    def status(self) -> dict[str, Any]:
        """What GET /jobs/{id} answers."""
        return {name: value for name, value in vars(self).items() if name not in ("recipe", "rows")}


class Jobs:
    """All jobs, run one after another; a prediction waits for the end of the job that runs."""

    def __init__(self, models: Mapping[str, str], folder: Path) -> None:
        self.models, self.folder = models, folder
        self.jobs: dict[str, Job] = {}
        self.waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.opened: dict[str, hft_core.SavedRun] = {}

    def work(self) -> None:
        """The worker thread; an error ends the job and not the worker."""
        while True:
            job = self.waiting.get()
            job.state, output = "running", self.folder / job.id
            try:
                result = hft_core.run(job.recipe, data=job.rows, output=output, catalogue=CATALOGUE, observers=[job])
            except Exception as error:
                job.state, job.error = "failed", str(error)
            else:
                job.results, job.state = result.to_json()["final"], "done"

    def add(self, given: Mapping[str, Any], rows: Mapping[str, Rows]) -> Job:
        """Queue a job. Raises `UsageError` for a recipe that is wrong or asks for files."""
        name = str(given.get("backbone"))
        if name not in self.models:
            raise UsageError(f"backbone: '{name}' is none of the service's, expected one of {', '.join(self.models)}")
        recipe = from_dict({**given, "backbone": self.models[name]})
        if any(task.data for task in recipe.tasks.values()):
            raise UsageError("tasks: a job brings its rows with it, and no 'data'")
        job = Job(recipe, rows)
        self.jobs[job.id] = job
        self.waiting.put(job)
        return job

    def find(self, job_id: str) -> Job:
        """Raises `HTTPException` when there is no such job."""
        if job_id not in self.jobs:
            raise HTTPException(404, "no such job")
        return self.jobs[job_id]

    def answer(self, job: Job, task: str, rows: Rows) -> list[dict[str, Any]]:
        """What the job's model says. Raises `HTTPException` when it has none yet, `UsageError` for unfit rows."""
        if job.state != "done":
            raise HTTPException(409, f"the job is {job.state}")
        if job.id not in self.opened:
            self.opened[job.id] = hft_core.open_run(self.folder / job.id, CATALOGUE)
        return predict(self.opened[job.id], task, rows)


def create_app(models: Mapping[str, str], folder: Path) -> FastAPI:
    """The service: `models` are the folders or hub ids of the backbones by name, `folder` keeps the finished runs."""
    jobs, app = Jobs(models, folder), FastAPI()
    threading.Thread(target=jobs.work, daemon=True).start()

    @app.exception_handler(UsageError)
    async def refuse(request: Request, error: UsageError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.post("/jobs", status_code=202)
    def submit(recipe: Annotated[dict[str, Any], Body()], rows: Annotated[dict[str, Rows], Body()]) -> dict[str, Any]:
        return jobs.add(recipe, rows).status()

    @app.get("/jobs/{job_id}")
    def progress(job_id: str) -> dict[str, Any]:
        return jobs.find(job_id).status()

    @app.post("/jobs/{job_id}/predict")
    def answer(job_id: str, task: Annotated[str, Body()], rows: Annotated[Rows, Body()]) -> list[dict[str, Any]]:
        return jobs.answer(jobs.find(job_id), task, rows)

    return app


def service() -> FastAPI:
    """What uvicorn starts."""
    return create_app({"minilm": "sentence-transformers/all-MiniLM-L6-v2"}, Path("jobs"))
