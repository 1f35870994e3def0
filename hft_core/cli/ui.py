"""`hft ui`: a page that shows runs, starts them and tries them out."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from hft_core.errors import UsageError


def ui(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="The folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8765,
    allow: Annotated[
        list[Path] | None,
        typer.Option("--allow", metavar="FOLDER", help="Recipes may name files there too; repeatable."),
    ] = None,
) -> None:
    """Show the runs under a folder in the browser, start and stop them, and try them out."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"'hft ui' needs {', '.join(missing)}: pip install 'hft-core[serve]'")
    for path in (folder, *(allow or [])):
        if not path.is_dir():
            raise UsageError(f"there is no folder '{path}'")
    from hft_core.serve.server import bind
    from hft_core.ui import server
    from hft_core.ui.workspace import Workspace

    invocation = ctx.obj
    options = [f"--plugin={Path(plugin).absolute()}" for plugin in invocation.plugins]
    options += [f"--block={name}" for name in invocation.block]
    options += ["--no-third-party"] if invocation.no_third_party else []

    def say(line: str) -> None:  # `say_error` would leave out the token of the address
        print(line, file=sys.stderr, flush=True)

    with bind(host, port) as listening:
        server.serve(
            Workspace(folder, allow or []), invocation.catalogue, listening, host=host, options=options, say=say
        )
