"""Listen: run the application under uvicorn until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from hft_core.errors import HftError, UsageError
from hft_core.serve.app import LOOPBACK, Service, create_app
from hft_core.serve.errors import Refused

LOG = logging.getLogger("hft.serve")
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1", "localhost")
STOP_SECONDS = 30
"""How long requests that were accepted may take after a signal to stop."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0: any free one. Raises `UsageError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: asyncio sets TCP_NODELAY only then, without which each answer would wait for 40 ms.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise UsageError(f"--host {host} --port {port}: cannot listen there ({error})") from error
    return made


def serve(
    service: Service, listening: socket.socket, *, host: str, access_log: bool, say: Callable[[str], None]
) -> None:
    """Answer requests until SIGTERM or SIGINT; then answer those that were accepted, and return. SIGHUP opens the runs
    again.

    `say` is told where it listens. Without `access_log`, nothing of a request is logged.
    """
    guarded = host in LOOPBACK_ADDRESSES and service.keys is None
    app = create_app(service, hosts=LOOPBACK if guarded else None)
    config = uvicorn.Config(
        app,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=STOP_SECONDS,
        h11_max_incomplete_event_size=32 * 1024,  # of headers
        backlog=2048,
        lifespan="off",
    )
    server = _Server(config, service)
    port = listening.getsockname()[1]
    say(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}")
    server.run(sockets=[listening])
    if not service.batcher.close(STOP_SECONDS):
        LOG.warning("a request was still being computed after %s seconds", STOP_SECONDS)


class _Server(uvicorn.Server):
    """A server that refuses new requests as soon as it is told to stop, and opens its runs again on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop with grace at a signal; uvicorn's own raises it again afterwards, which would end the process there."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if hasattr(signal, "SIGHUP"):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # outside of the main thread
                asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_soon)
        await super().startup(sockets=sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stopping = True
        await super().shutdown(sockets=sockets)

    def _reload_soon(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(asyncio.to_thread(self._reload))

    def _reload(self) -> None:
        try:
            LOG.warning("opened again: %s", ", ".join(self._service.runs.reload()))
        except (HftError, Refused) as error:
            LOG.error("the runs are served as they were: %s", error)
