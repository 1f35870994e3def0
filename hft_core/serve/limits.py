"""Bound what one request, and all of them together, may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a service accepts; beyond it, a request is refused with the status that is named here."""

    body_bytes: int = 4 * 1024 * 1024
    """Of a request's body: 413."""
    items: int = 256
    """Rows of a request: 413."""
    characters: int = 200_000
    """Of all texts of a request: 413."""
    queued_rows: int = 4096
    """Rows that wait for the model: 429."""
    open_requests: int = 1024
    """Requests that are being answered: 503."""
    seconds: float = 30.0
    """Until a request is answered (504), and until its body has arrived (408)."""
    batch_rows: int = 64
    """Rows of several requests that are computed together."""
    wait_ms: float = 2.0
    """How long a batch waits for more rows where several clients are at work."""
