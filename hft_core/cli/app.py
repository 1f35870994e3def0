"""The `hft` command: which commands there are, and what becomes of errors.

Only the module of the command that is called is imported (all of them for the help), and no such module imports torch
or pydantic at its top: what runs a model is imported inside the command's function.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from typer.main import get_command

from hft_core.cli.invocation import Invocation, split
from hft_core.cli.terminal import say_error
from hft_core.errors import HftError
from hft_core.specs import load

COMMANDS = {
    "demo": "hft_core.cli.demo:demo",
    "run": "hft_core.cli.run:run",
    "resume": "hft_core.cli.resume:resume",
    "validate": "hft_core.cli.validate:validate",
    "evaluate": "hft_core.cli.evaluate:evaluate",
    "predict": "hft_core.cli.predict:predict",
    "list-plugins": "hft_core.cli.list_plugins:list_plugins",
    "describe": "hft_core.cli.describe:describe",
    "env": "hft_core.cli.env:env",
}
"""The commands in the order of the help. Each is a function with typer annotations and a docstring, in a module of its
own; `ctx: typer.Context` gives it the `Invocation` as `ctx.obj`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process when `arguments` is None) and return its exit code.

    0: done. 1: a run failed, or an unexpected error. 2: the request itself was wrong. 130: ended by SIGINT. 143: by
    SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _write_any_text()
    debug = "--debug" in arguments
    try:
        invocation, rest = split(arguments)
        code = _call(invocation, rest)
        sys.stdout.flush()
        return code
    except HftError as error:
        return _failed(f"error: {error}", error.exit_code, debug=debug)
    except KeyboardInterrupt:
        return _failed("interrupted", 130, debug=debug)
    except BrokenPipeError:
        # The reader has gone (`hft … | head`); what is still buffered must not complain when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        hint = "" if debug else " (run again with --debug for the traceback)"
        return _failed(f"error: unexpected {type(error).__name__}: {error}{hint}", 1, debug=debug)


def build(names: Iterable[str]) -> typer.Typer:
    """The application with some of the `COMMANDS`, whose modules it imports."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,  # plain help: nothing cut in a pipe, and brackets stay brackets
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name in names:
        app.command(name)(load(COMMANDS[name]))
    return app


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    block: Annotated[
        list[str] | None,
        typer.Option("--block", metavar="DIST", help="Load no plugin of this distribution (also: HFT_BLOCK=DIST,…)."),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE.py", help="Use the plugins of one file."),
    ] = None,
) -> None:
    """Hybrid fine-tuning: continued pre-training, several tasks at once, shared adapters, loss combiners.

    The options below may stand anywhere on the line; --block and --plugin may be repeated.
    """
    # Shown in the help only: `split` has taken these options out of the arguments.


def _call(invocation: Invocation, arguments: list[str]) -> int:
    if invocation.version:
        from hft_core import __version__

        print(f"hft {__version__}")
        return 0
    wanted = [arguments[0]] if arguments and arguments[0] in COMMANDS else list(COMMANDS)
    try:
        get_command(build(wanted)).main(arguments, prog_name="hft", obj=invocation)
    except SystemExit as end:  # how typer ends: usage errors, help, `typer.Exit`
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _failed(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    say_error(message)
    return code


def _write_any_text() -> None:
    """Let a character that the terminal's encoding lacks be escaped instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
