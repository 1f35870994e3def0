"""Build the application: its routes, and how it answers failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from hft_core.errors import HftError
from hft_core.sanitize import finite
from hft_core.serve import kserve, schema, search
from hft_core.serve.api_keys import ApiKeys
from hft_core.serve.batcher import Batcher, Job
from hft_core.serve.errors import FAILURES, Refused, declared, error_body
from hft_core.serve.guard import Guard
from hft_core.serve.limits import Limits
from hft_core.serve.metrics import Metrics
from hft_core.serve.rows import rows_by_task
from hft_core.serve.served_run import ServedRun
from hft_core.serve.served_runs import ServedRuns, find_task
from hft_core.serve.streaming import events_of
from hft_core.serve.writing import Writing

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Service:
    """Served runs, the thread that computes, and what limits and counts requests."""

    def __init__(self, runs: ServedRuns, limits: Limits, *, keys: ApiKeys | None = None) -> None:
        self.runs, self.limits, self.keys, self.metrics = runs, limits, keys, Metrics()
        self.batcher = Batcher(
            batch_rows=limits.batch_rows,
            queued_rows=limits.queued_rows,
            wait_s=limits.wait_ms / 1000,
            observe=self.metrics.observe_batch,
        )
        self.stopping = False
        """No new connections are taken; requests that were accepted are still answered."""

    async def compute(self, job: Job) -> Any:
        """Return the result of a job. Raises `Refused`, and what the job raises."""
        future = self.batcher.submit(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            raise Refused(504, f"not answered within {self.limits.seconds:g} seconds") from None

    async def predict(self, request: schema.PredictRequest) -> tuple[ServedRun, dict[str, list[dict[str, Any]]]]:
        """Answer the rows of a request. Raises `Refused`, and `HftError` of the heads."""
        run = self.runs.find(request.run)
        rows = rows_by_task(run, request, request.tasks, self.limits)
        count = len(next(iter(rows.values())))
        answers = await self.compute(Job((id(run), "predict"), count, run.predict, rows))
        for task in rows:
            self.metrics.rows.labels(run.name, task).inc(count)
        return run, finite(answers)


def create_app(service: Service, *, hosts: frozenset[str] | None = None) -> FastAPI:
    """Return the application. `hosts`: see `Guard`."""
    app = FastAPI(
        title="hft",
        description="Predictions of finished runs.",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    app.add_middleware(
        Guard,
        limits=service.limits,
        metrics=service.metrics,
        keys=service.keys,
        hosts=hosts,
    )
    _add_failures(app)
    _add_states(app, service)
    _add_runs(app, service)
    _add_generate(app, service)
    if service.runs.indexes():
        search.add_route(
            app,
            service.runs.find_index,
            service.compute,
            service.limits,
            lambda run, task, rows: service.metrics.rows.labels(run, task).inc(rows),
        )
    kserve.add_routes(app, service.runs, service.predict, lambda: not service.stopping)
    return app


def _add_failures(app: FastAPI) -> None:
    def answer(status: int, message: str) -> JSONResponse:
        headers = {"retry-after": "1"} if status in (429, 503) else None
        return JSONResponse(error_body(status, message), status_code=status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.message)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, _first(error.errors()))

    @app.exception_handler(HTTPException)
    async def not_routed(request: Request, error: HTTPException) -> JSONResponse:
        answered = answer(error.status_code, str(error.detail))
        answered.headers.update(error.headers or {})
        return answered

    @app.exception_handler(HftError)
    async def wrong_rows(request: Request, error: HftError) -> JSONResponse:
        return answer(422, str(error))


def _first(problems: Sequence[Any]) -> str:
    """Return the first of pydantic's problems in one line, without the value that was given."""
    first = problems[0]
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['ctx']['error']}"
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses=declared(403))
    async def health() -> schema.Health:
        """Say that the process answers."""
        return schema.Health()

    @app.get("/ready", responses=declared(403, 503))
    async def ready() -> schema.Health:
        """Say whether requests are taken."""
        if service.stopping:
            raise Refused(503, "the service is stopping")
        return schema.Health()

    @app.get(
        "/metrics", responses={200: {"content": {"text/plain": {}}}, **declared(401, 403)}, response_class=Response
    )
    async def metrics() -> Response:
        """Return counts and times for Prometheus."""
        service.metrics.waiting.set(service.batcher.waiting_rows)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_runs(app: FastAPI, service: Service) -> None:
    @app.get("/v1/tasks", responses=declared(401, 403))
    async def tasks() -> schema.TasksResponse:
        """List the runs and their tasks that answer, and the indexes."""
        return schema.TasksResponse(
            runs=[_info(run) for run in service.runs.all()],
            indexes=[index.info() for index in service.runs.indexes()],
        )

    @app.post("/v1/predict", responses=FAILURES)
    async def predict(request: schema.PredictRequest) -> schema.PredictResponse:
        """Answer rows by several tasks of a run; texts that tasks share are encoded once."""
        run, answers = await service.predict(request)
        return schema.PredictResponse(run=run.name, answers=answers)

    @app.post("/v1/embed", responses=FAILURES)
    async def embed(request: schema.EmbedRequest) -> schema.EmbedResponse:
        """Return an embedding for each row."""
        run = service.runs.find(request.run)
        if request.task is None and run.model.strategy.routes_rows:
            raise Refused(422, f"task: the embedding depends on it, give one of {', '.join(run.tasks)}")
        rows = rows_by_task(run, request, None if request.task is None else [request.task], service.limits)
        task, of_task = next(iter(rows.items()))
        job = Job((id(run), "embed"), len(of_task), run.embed, {task: of_task})
        return schema.EmbedResponse(run=run.name, task=task, embeddings=finite(await service.compute(job)))

    if service.keys is not None:  # without a key, anybody could keep the service opening its runs

        @app.post("/v1/reload", responses=declared(401, 403, 409, 422, 500, 503))
        async def reload() -> schema.ReloadResponse:
            """Open all runs again from their folders; the old ones answer until the new ones are open."""
            return schema.ReloadResponse(reloaded=await asyncio.to_thread(service.runs.reload))


def _info(run: ServedRun) -> schema.RunInfo:
    recipe = run.saved.resolved.recipe
    return schema.RunInfo(
        name=run.name,
        tasks=[
            schema.TaskInfo(
                name=task.name,
                head=recipe.tasks[task.name].head.type,
                columns=[column.name for column in task.columns],
                texts=len(task.texts),
                writes=task.head.generates,
                labels=[str(label) for label in getattr(task.head, "labels", [])],
            )
            for task in run.tasks.values()
        ],
    )


def _add_generate(app: FastAPI, service: Service) -> None:
    streamed: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
    }

    @app.post("/v1/generate", response_model=schema.GenerateResponse, responses={**streamed, **FAILURES})
    async def generate(request: schema.GenerateRequest) -> Any:
        """Write a text: server-sent events while it is written, or the whole with `"stream": false`."""
        run = service.runs.find(request.run)
        task = _writer(run, request.task)
        given = schema.PredictRequest(
            texts=None if request.text is None else [request.text],
            messages=None if request.messages is None else [request.messages],
        )
        (row,) = rows_by_task(run, given, [task], service.limits)[task]

        def job(tell: Callable[[str], None], stopped: Callable[[], bool]) -> Job:
            return Job(None, 1, run.write, Writing(task, row, tell, stopped))

        if not request.stream:
            text = await service.compute(job(lambda piece: None, lambda: False))
            return schema.GenerateResponse(run=run.name, task=task, text=text)
        pieces: AsyncIterator[tuple[str, Any]] = await events_of(service.batcher, job, service.limits.seconds)
        return StreamingResponse(
            _written(pieces), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )


def _writer(run: ServedRun, name: str | None) -> str:
    """Return the task that writes. Raises `Refused` (404, 422)."""
    writers = [task.name for task in run.tasks.values() if task.head.generates]
    if name is None:
        if len(writers) != 1:
            found = f"give one of {', '.join(writers)}" if writers else "no task of the run writes texts"
            raise Refused(422, f"task: {found}")
        return writers[0]
    if not find_task(run, name).head.generates:
        raise Refused(422, f"task: '{name}' writes no texts; ask /v1/predict")
    return name


async def _written(pieces: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[str]:
    async for event, data in pieces:
        yield f"event: {event}\ndata: {json.dumps(data)}\n\n"
