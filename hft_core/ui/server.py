"""Listen: run the page's application under uvicorn until a signal ends it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence

import uvicorn

from hft_core.plugins.catalogue import Catalogue
from hft_core.ui.app import create_app
from hft_core.ui.workspace import Workspace


def serve(
    workspace: Workspace,
    catalogue: Catalogue,
    listening: socket.socket,
    *,
    host: str,
    options: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Serve the page until SIGTERM or SIGINT; its runs keep running. `say` is told the address, with its token."""
    port, token = listening.getsockname()[1], secrets.token_urlsafe(24)
    shown = f"[{host}]" if ":" in host else host
    names = frozenset(f"{name}:{port}" for name in {shown.lower(), "localhost", "127.0.0.1", "[::1]"})
    app = create_app(workspace, catalogue, token=token, port=port, names=names, options=options)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # an address has the token
        server_header=False,
        timeout_graceful_shutdown=1,  # streams of logs end with their browsers only
        lifespan="off",
    )
    say(f"open http://{shown}:{port}/?token={token}")
    uvicorn.Server(config).run(sockets=[listening])
