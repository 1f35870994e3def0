"""Refuse requests before anything of them is read: by host, key, size and number."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hft_core.serve.api_keys import ApiKeys
from hft_core.serve.errors import Refused, error_body
from hft_core.serve.limits import Limits
from hft_core.serve.metrics import Metrics

LOG = logging.getLogger("hft.serve")
OPEN_TO_ALL = ("/health", "/ready", "/v2/health/live", "/v2/health/ready")
"""Paths that need no key: what a supervisor asks."""


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, app: ASGIApp, *, limits: Limits, metrics: Metrics, keys: ApiKeys | None, hosts: frozenset[str] | None
    ) -> None:
        """`hosts`: names that a request's `Host` may have; None for any. A page of the web whose name leads to the
        loopback address has another one."""
        self._app, self._limits, self._metrics, self._keys, self._hosts = app, limits, metrics, keys, hosts
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._open += 1
        self._metrics.open.set(self._open)
        try:
            self._check(scope)
            async with asyncio.timeout(self._limits.seconds):
                body = await self._body(scope, receive)
            await self._app(scope, _replaying(body, receive), counted)
        except Refused as refused:
            await _refuse(scope, receive, counted, refused.status, refused.message)
        except TimeoutError:
            message = f"the body has not arrived within {self._limits.seconds:g} seconds"
            await _refuse(scope, receive, counted, 408, message)
        except _Disconnected:
            status = 499  # nobody to answer
        except Exception as error:  # of a plugin or a library; its message may have parts of the request
            LOG.error("%s while answering", type(error).__name__)
            if not status:
                await _refuse(scope, receive, counted, 500, "the model raised an error that nobody foresaw")
        finally:
            self._open -= 1
            self._metrics.open.set(self._open)
            route = getattr(scope.get("route"), "path", "none")  # the template: a path may be anything
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts is not None and _name(headers.get(b"host", "")) not in self._hosts:
            raise Refused(403, "the header Host names another host than this service")
        keys = None if scope["path"] in OPEN_TO_ALL else self._keys
        if keys is not None and not keys.accepts(headers.get(b"authorization", "")):
            raise Refused(401, "expected the header 'Authorization: Bearer KEY' with a key of this service")
        if self._open > self._limits.open_requests:
            raise Refused(503, f"{self._limits.open_requests} requests are being answered: try later")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise Refused(413, f"the body has {length} bytes, at most {self._limits.body_bytes} are taken")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body. Raises `Refused` as soon as it is too long."""
        if scope["method"] in ("GET", "HEAD"):
            return b""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._limits.body_bytes:
                raise Refused(413, f"the body has more than {self._limits.body_bytes} bytes")
            if not message.get("more_body", False):
                return b"".join(parts)


class _Disconnected(Exception):
    """The client has gone before its request was whole."""


def _name(host: str) -> str:
    """Return a `Host` without its port."""
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the whole body first."""
    pending = True

    async def receive_again() -> Message:
        nonlocal pending
        if pending:
            pending = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return receive_again


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, message: str) -> None:
    """Answer with an error. The rest of a body that is not wanted is left unread, and the connection closed."""
    headers = {"connection": "close"} if status in (408, 413) else {}
    headers |= {"www-authenticate": "Bearer"} if status == 401 else {}
    await JSONResponse(error_body(status, message), status_code=status, headers=headers)(scope, receive, send)
