"""Speak the Open Inference Protocol (KServe v2) over HTTP: a run is a model, a task one of its outputs.

The input is `text`, BYTES `[rows]` (or `[rows, n]` for tasks that read n texts); an output has each row's answer as
JSON text. Only the JSON form is spoken, not the binary extension.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from hft_core.sanitize import json_text
from hft_core.serve.errors import Refused, declared
from hft_core.serve.schema import PredictRequest, Text
from hft_core.serve.served_run import ServedRun
from hft_core.serve.served_runs import ServedRuns

Predict = Callable[[PredictRequest], Awaitable[tuple[ServedRun, dict[str, list[dict[str, Any]]]]]]


class Tensor(BaseModel):
    """An input."""

    name: Literal["text"]
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES"]
    data: list[Any] = Field(description="texts, row by row; nested or flat")


class WantedOutput(BaseModel):
    """An output that is asked for."""

    name: str


class InferRequest(BaseModel):
    """A request of the protocol."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] | None = Field(default=None, min_length=1, description="tasks; all if left out")


class OutputTensor(BaseModel):
    """An output: answers as JSON text."""

    name: str
    shape: list[int]
    datatype: Literal["BYTES"] = "BYTES"
    data: list[str]


class InferResponse(BaseModel):
    """An answer of the protocol."""

    model_name: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorInfo(BaseModel):
    """Name, type and shape of an input or output; -1: any size."""

    name: str
    datatype: Literal["BYTES"] = "BYTES"
    shape: list[int]


class ModelInfo(BaseModel):
    """What a model takes and gives."""

    name: str
    platform: str = "hft"
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class Ready(BaseModel):
    """Whether a model takes requests."""

    name: str
    ready: bool


class Live(BaseModel):
    """Whether the server is live."""

    live: bool


class ServerReady(BaseModel):
    """Whether the server takes requests."""

    ready: bool


FAILURES = declared(400, 401, 403, 404, 408, 413, 422, 429, 500, 503, 504)


def add_routes(app: FastAPI, runs: ServedRuns, predict: Predict, is_ready: Callable[[], bool]) -> None:
    """Add the protocol's routes."""

    @app.get("/v2/health/live", responses=declared(403))
    async def live() -> Live:
        """Say that the process answers."""
        return Live(live=True)

    @app.get("/v2/health/ready", responses=declared(403, 503))
    async def ready() -> ServerReady:
        """Say whether requests are taken."""
        if not is_ready():
            raise Refused(503, "the service is stopping")
        return ServerReady(ready=True)

    @app.get("/v2/models/{name}", responses=declared(401, 403, 404, 422))
    async def model(name: str) -> ModelInfo:
        """Describe a run."""
        run = runs.find(name)
        outputs = [TensorInfo(name=task, shape=[-1]) for task in run.tasks]
        return ModelInfo(name=run.name, inputs=[TensorInfo(name="text", shape=[-1, -1])], outputs=outputs)

    @app.get("/v2/models/{name}/ready", responses=declared(401, 403, 404, 422))
    async def model_ready(name: str) -> Ready:
        """Say whether a run takes requests."""
        return Ready(name=runs.find(name).name, ready=is_ready())

    @app.post("/v2/models/{name}/infer", responses=FAILURES)
    async def infer(name: str, request: InferRequest) -> InferResponse:
        """Answer texts by the tasks of a run."""
        texts = _texts(request.inputs[0])
        tasks = None if request.outputs is None else [output.name for output in request.outputs]
        run, answers = await predict(PredictRequest(run=name, texts=texts, tasks=tasks))
        outputs = [
            OutputTensor(name=task, shape=[len(rows)], data=[json_text(row) for row in rows])
            for task, rows in answers.items()
        ]
        return InferResponse(model_name=run.name, id=request.id, outputs=outputs)


def _texts(tensor: Tensor) -> list[Text | list[Text]]:
    """Return the texts of an input by row. Raises `Refused` (422)."""
    flat: list[Any] = [text for part in tensor.data for text in (part if isinstance(part, list) else [part])]
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1
    if not flat or not all(isinstance(text, str) and text for text in flat):
        raise Refused(422, "inputs.0.data: expected texts that are not empty")
    if width < 1 or tensor.shape[0] * width != len(flat):
        raise Refused(422, f"inputs.0.shape: {tensor.shape} does not hold {len(flat)} texts")
    return flat if width == 1 else [flat[i : i + width] for i in range(0, len(flat), width)]
