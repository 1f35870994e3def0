"""Pass the pieces of a text from the thread that computes to the one that answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from hft_core.errors import HftError
from hft_core.serve.batcher import Batcher, Job
from hft_core.serve.errors import error_body

Event = tuple[str, Any]
"""`piece` or `done` with a text, `error` with an error's body."""


async def events_of(
    batcher: Batcher, make_job: Callable[[Callable[[str], None], Callable[[], bool]], Job], seconds: float
) -> AsyncIterator[Event]:
    """Submit a job that writes, and return its events. Raises `Refused` when it is not accepted.

    `make_job` gets whom to tell pieces, and whether the reader has gone; `seconds`: until the text is whole.
    """
    loop, queue, gone = asyncio.get_running_loop(), asyncio.Queue[Event | None](), threading.Event()

    def put(event: Event | None) -> None:
        if not gone.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, event)

    future = batcher.submit(make_job(lambda piece: put(("piece", piece)), gone.is_set))
    future.add_done_callback(lambda _: put(None))

    async def events() -> AsyncIterator[Event]:
        try:
            async with asyncio.timeout(seconds):
                while (event := await queue.get()) is not None:
                    yield event
            error = future.exception()
            if error is None:
                yield "done", future.result()
            else:
                message = str(error) if isinstance(error, HftError) else "the model raised an error that nobody foresaw"
                yield "error", error_body(422 if isinstance(error, HftError) else 500, message)
        except TimeoutError:
            yield "error", error_body(504, f"not written within {seconds:g} seconds")
        finally:
            gone.set()
            future.cancel()

    return events()
