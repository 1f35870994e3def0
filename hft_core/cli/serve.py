"""`hft serve`: answer requests over HTTP with finished runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.serve.api_keys import ApiKeys

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    ctx: typer.Context,
    run: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="Folders of finished runs; NAME=FOLDER gives one another name.")
    ],
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index", metavar="INDEX", help="A folder that 'hft index' made of a run, or NAME=FOLDER; repeat."
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", metavar="FILE", help="Keys, one a line; a request needs one of them."),
    ] = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Listen beyond this machine though no key is needed.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until a request is answered.")] = 30,
    max_items: Annotated[int, typer.Option("--max-items", min=1, help="Rows of a request.")] = 256,
    max_characters: Annotated[
        int, typer.Option("--max-characters", min=1, help="Of all texts of a request.")
    ] = 200_000,
    max_body: Annotated[int, typer.Option("--max-body", min=1024, help="Bytes of a request.")] = 4 * 1024 * 1024,
    max_queue: Annotated[int, typer.Option("--max-queue", min=1, help="Rows that wait for the model.")] = 4096,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows of several requests computed together.")] = 64,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log method, path and status of requests.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Serve finished runs over HTTP: /v1/predict, embed, search, generate and tasks, /metrics, /openapi.json."""
    _check_installed()
    from hft_core.serve import limits, served_runs, server
    from hft_core.serve.app import Service
    from hft_core.serve.served_run import ServedRun, open_served

    keys = _keys(api_key_file, host, without_key=without_key)
    folders, indexes = served_runs.named(run), served_runs.named(index or [], "indexes")
    listening = server.bind(host, port)

    def opened(name: str, folder: Path) -> ServedRun:
        found = open_served(name, folder, ctx.obj.catalogue, trust_remote_code=trust_remote_code)
        for warning in found.saved.warnings:
            say_error(f"warning: {warning}")
        return found

    with listening:
        bounds = limits.Limits(
            body_bytes=max_body,
            items=max_items,
            characters=max_characters,
            queued_rows=max(max_queue, max_items),
            seconds=timeout,
            batch_rows=batch,
        )
        service = Service(served_runs.ServedRuns(folders, opened, indexes=indexes), bounds, keys=keys)
        server.serve(service, listening, host=host, access_log=access_log, say=say_error)


def _check_installed() -> None:
    """Raise `UsageError` where a package that serves is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"'hft serve' needs {', '.join(missing)}: pip install 'hft-core[serve]'")


def _keys(file: Path | None, host: str, *, without_key: bool) -> ApiKeys | None:
    """Return the keys of a service that listens on `host`. Raises `UsageError` where it needs some and has none."""
    from hft_core.serve import api_keys, server

    keys = None if file is None else api_keys.read_keys(file)
    if host not in server.LOOPBACK_ADDRESSES and keys is None and not without_key:
        raise UsageError(
            f"--host {host}: everybody who reaches this machine could use the runs: give --api-key-file FILE, or "
            "--without-key where something in front of it checks who asks"
        )
    return keys
