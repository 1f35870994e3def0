"""Define the bodies of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant", "tool"]
    content: str


Text = Annotated[str, Field(min_length=1)]
RunName = Annotated[str | None, Field(default=None, description="a run by its name; needed where several are served")]


class RowsRequest(BaseModel):
    """Rows, in one of three forms."""

    model_config = ConfigDict(extra="forbid", strict=True)
    texts: list[Text | list[Text]] | None = Field(
        default=None,
        min_length=1,
        description="a text a row; for tasks with several text columns, a list of as many texts a row",
        examples=[["Rates rise again"]],
    )
    messages: list[list[Message]] | None = Field(default=None, min_length=1, description="a conversation a row")
    rows: list[dict[str, Any]] | None = Field(
        default=None,
        min_length=1,
        description="a row each by column, as in a data file: for tasks that read other columns",
    )

    @model_validator(mode="after")
    def _one_form(self) -> RowsRequest:
        if sum(form is not None for form in (self.texts, self.messages, self.rows)) != 1:
            raise ValueError("give one of texts, messages and rows")
        return self


class PredictRequest(RowsRequest):
    """Ask tasks for their answers."""

    run: RunName = None
    tasks: list[str] | None = Field(
        default=None, min_length=1, description="the tasks that answer; by default all that read these columns"
    )


class PredictResponse(BaseModel):
    """Answers, in the order of the rows."""

    run: str
    answers: dict[str, list[dict[str, Any]]] = Field(description="by task, an answer for each row")


class EmbedRequest(RowsRequest):
    """Ask for embeddings."""

    run: RunName = None
    task: str | None = Field(
        default=None, description="whose embedding: that of its head if it has one, else the mean of the hidden states"
    )


class EmbedResponse(BaseModel):
    """Embeddings, in the order of the rows."""

    run: str
    task: str
    embeddings: list[list[float]]


class GenerateRequest(BaseModel):
    """Ask a task that writes for a text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    run: RunName = None
    task: str | None = Field(default=None, description="a task that writes; needed where a run has several")
    text: Text | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    stream: bool = Field(
        default=True, description="server-sent events: `piece` for each piece, `done` with the whole text"
    )

    @model_validator(mode="after")
    def _one_form(self) -> GenerateRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


class GenerateResponse(BaseModel):
    """A text that was written."""

    run: str
    task: str
    text: str


class SearchRequest(BaseModel):
    """Search an index."""

    model_config = ConfigDict(extra="forbid", strict=True)
    index: str | None = Field(default=None, description="an index by its name; needed where several are served")
    texts: list[Text] = Field(min_length=1, description="what to search for", examples=[["Rates rise again"]])
    k: int = Field(default=5, ge=1, le=100, description="rows to find for each text")
    rerank: str | None = Field(default=None, description="a task that orders the nearest rows, such as a ranking")
    candidates: int = Field(default=50, ge=1, le=1000, description="rows of each text that are re-ranked")


class SearchHit(BaseModel):
    """A row that was found."""

    number: int = Field(description="its place among the rows of the index, from 1")
    similarity: float = Field(description="the cosine of its embedding and the text's")
    score: float | None = Field(default=None, description="of the task that re-ranked")
    row: dict[str, Any] = Field(description="by column, as it was indexed")


class SearchResponse(BaseModel):
    """For each text the rows that were found, the best first."""

    index: str
    run: str
    results: list[list[SearchHit]]


class TaskInfo(BaseModel):
    """A task that answers."""

    name: str
    head: str
    columns: list[str]
    texts: int = Field(description="how many texts a row of `texts` has")
    writes: bool = Field(description="whether /v1/generate takes it")
    labels: list[str] = Field(description="its classes, if it has any")


class RunInfo(BaseModel):
    """A served run."""

    name: str
    tasks: list[TaskInfo]


class IndexInfo(BaseModel):
    """An index that /v1/search takes."""

    name: str
    run: str
    task: str
    text: str = Field(description="the column that was embedded")
    columns: list[str]
    rows: int


class TasksResponse(BaseModel):
    """The served runs and indexes."""

    runs: list[RunInfo]
    indexes: list[IndexInfo]


class ReloadResponse(BaseModel):
    """Runs that were opened again."""

    reloaded: list[str]


class Health(BaseModel):
    """A state."""

    status: Literal["ok"] = "ok"
