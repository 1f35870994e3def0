"""Answer every failure in one shape, and declare it for OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "queue_full",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}


class Problem(BaseModel):
    """What went wrong."""

    code: str = Field(description="a name for programs, one for each status", examples=["invalid"])
    message: str = Field(description="one line for people")


class ErrorBody(BaseModel):
    """The body of every answer whose status is 400 or above."""

    error: Problem


class Refused(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the body of an answer with an error."""
    return {"error": {"code": CODES.get(status, "error"), "message": " ".join(message.split())}}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI says of these statuses."""
    return {status: {"model": ErrorBody, "description": CODES[status].replace("_", " ")} for status in statuses}


FAILURES = declared(400, 401, 403, 404, 408, 413, 422, 429, 500, 503, 504)
"""Of routes that compute."""
