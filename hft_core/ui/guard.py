"""Let only the page of this server in: a token, its own host and origin, and headers that keep a browser strict."""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hft_core.serve.api_keys import bearer_token

MAX_BODY = 2 * 1024 * 1024
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""Of a report, which may hold anything: no script of it runs, and it is of no origin."""


class Guard:
    """An ASGI application around the page's."""

    def __init__(self, app: ASGIApp, *, token: str, port: int, names: frozenset[str]) -> None:
        """`names`: of this host, as a `Host` header may give them (with the port)."""
        self._app, self._token, self._cookie, self._names = app, token, f"hft_ui_{port}", names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> Response | None:
        host = headers.get(b"host", "").lower()
        if host not in self._names:
            return _no(403, "the header Host names another host than this server")
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return _no(403, "the request comes from another page")
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get(b"sec-fetch-site", "same-origin") != "same-origin":
                return _no(403, "the request comes from another page")
            if not headers.get(b"content-type", "").lower().startswith("application/json"):
                return _no(403, "expected the content type application/json")
            length = headers.get(b"content-length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                return _no(413, f"expected a body with a length of at most {MAX_BODY} bytes")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and given:
            return self._logged_in(given)
        tokens = (_cookie(headers.get(b"cookie", ""), self._cookie), bearer_token(headers.get(b"authorization", "")))
        if not any(map(self._same, tokens)):
            return _no(401, "open the address with the token that 'hft ui' printed")
        return None

    def _logged_in(self, given: str) -> Response:
        """Keep the token in a cookie, and out of the address."""
        if not self._same(given):
            return _no(401, "this is not the token that 'hft ui' printed")
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    def _same(self, given: str) -> bool:
        hashes = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given, self._token)]
        return hmac.compare_digest(*hashes)


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _no(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status_code=status)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            for name, value in (
                (b"content-security-policy", POLICY),
                (b"x-content-type-options", "nosniff"),
                (b"referrer-policy", "no-referrer"),
                (b"cache-control", "no-store"),
                (b"cross-origin-opener-policy", "same-origin"),
                (b"cross-origin-resource-policy", "same-origin"),
            ):
                if name not in present:
                    message["headers"] = [*message["headers"], (name, value.encode())]
        await send(message)

    return sending
