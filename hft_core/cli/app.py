"""The `hft` command: dispatch to the commands, and report errors.

Only the module of the called command is imported (all of them for the help). No such module imports torch or pydantic
at module level; commands import what runs a model inside their function.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.main import get_command

from hft_core.cli import completion
from hft_core.cli.examples import EXAMPLES, FIRST
from hft_core.cli.invocation import EVERYWHERE, Invocation, split
from hft_core.cli.terminal import discard, open_standard_streams, sanitized_logs, say_error
from hft_core.cli.usage import REFUSED, usage_error
from hft_core.errors import HftError, UsageError, shortened
from hft_core.specs import load

COMMANDS = {
    "demo": "hft_core.cli.demo:demo",
    "init": "hft_core.cli.init:init",
    "run": "hft_core.cli.run:run",
    "resume": "hft_core.cli.resume:resume",
    "compare": "hft_core.cli.compare:compare",
    "sweep": "hft_core.cli.sweep:sweep",
    "validate": "hft_core.cli.validate:validate",
    "check-data": "hft_core.cli.check_data:check_data",
    "evaluate": "hft_core.cli.evaluate:evaluate",
    "predict": "hft_core.cli.predict:predict",
    "select": "hft_core.cli.select:select",
    "index": "hft_core.cli.index:index",
    "search": "hft_core.cli.search:search",
    "report": "hft_core.cli.report:report",
    "analyze": "hft_core.cli.analyze:analyze",
    "export": "hft_core.cli.export:export",
    "merge": "hft_core.cli.merge:merge",
    "push": "hft_core.cli.push:push",
    "check": "hft_core.cli.check:check",
    "list-plugins": "hft_core.cli.list_plugins:list_plugins",
    "describe": "hft_core.cli.describe:describe",
    "new-plugin": "hft_core.cli.new_plugin:new_plugin",
    "check-plugin": "hft_core.cli.check_plugin:check_plugin",
    "serve": "hft_core.cli.serve:serve",
    "ui": "hft_core.cli.ui:ui",
    "cache": "hft_core.cli.cache:cache",
    "env": "hft_core.cli.env:env",
    "doctor": "hft_core.cli.doctor:doctor",
    "completion": "hft_core.cli.completion:completion",
}
"""The commands in the order of the help. Each is a function with typer annotations and a docstring, in a module of its
own; `ctx: typer.Context` gives it the `Invocation` as `ctx.obj`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (that of the process when `arguments` is None) and return its exit code.

    0: done. 1: a run failed, or an unexpected error. 2: the request itself was wrong. 124: stopped by `--max-time`.
    128 + N: stopped by the signal N (130: SIGINT, 143: SIGTERM).
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    open_standard_streams()
    _write_any_text()
    debug = "--debug" in arguments
    if not debug:
        os.environ["RUST_BACKTRACE"] = "0"  # of the tokenizers, whose panic is an error of one line here
    try:
        invocation, rest = split(arguments)
        with sanitized_logs():
            code = _call(invocation, rest)
        sys.stdout.flush()
        return code
    except HftError as error:
        return _failed(f"{error.label}{error}", error.exit_code, debug=debug)
    except KeyboardInterrupt:
        return _failed("interrupted", 130, debug=debug)
    except BrokenPipeError:
        discard(sys.stdout)  # the reader has gone (`hft … | head`)
        return 1
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer's own end for a reader that has gone
            return 1
        return _failed(_unexpected(error, debug=debug), _code_of(error), debug=debug)
    except BaseException as error:  # libraries in Rust raise a kind of their own (`PanicException`)
        return _failed(_unexpected(error, debug=debug), _code_of(error), debug=debug)


class Command(TyperCommand):
    """A command that parses only flags if the command line has only flags.

    To parse another option, even an absent one, typer imports pydantic, which takes longer than the rest of a listing.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        everything = self.params
        flags = [parameter for parameter in everything if getattr(parameter, "is_flag", False)]
        if {name for flag in flags for name in flag.opts}.issuperset(args):
            self.params = [p for p in everything if p in flags or p.required or p.param_type_name == "argument"]
            self.add_help_option = False
        try:
            return super().parse_args(ctx, args)
        finally:
            self.params, self.add_help_option = everything, True


def build(names: Iterable[str], added: Mapping[str, Callable[..., Any]] | None = None) -> typer.Typer:
    """Build the application with some of the `COMMANDS`, whose modules it imports, and the functions of other ones."""
    names, added = list(names), added or {}
    whole = len(names) + len(added) > 1
    app = typer.Typer(
        add_completion=False,
        add_help_option=whole,
        rich_markup_mode=None,  # plain help: nothing cut in a pipe, and brackets stay brackets
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    # The global options are shown in the help of the whole; `split` has removed them from a command's line.
    app.callback()(_options if whole else _no_options)
    for name in names:
        app.command(name, cls=Command, epilog=f"Example: {EXAMPLES[name]}")(load(COMMANDS[name]))
    for name, function in added.items():
        app.command(name, cls=Command)(function)
    return app


def _no_options() -> None:
    """See `_options`."""


def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    block: Annotated[
        list[str] | None,
        typer.Option("--block", metavar="DIST", help="Load no plugin of this distribution (also: HFT_BLOCK=DIST,…)."),
    ] = None,
    no_third_party: Annotated[
        bool,
        typer.Option("--no-third-party", help="Load hft's own plugins only (or some more: HFT_ALLOW=DIST,…)."),
    ] = False,
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
    if completion.is_asked():
        names, added = _commands(invocation, "--help")
        return completion.answer(get_command(build(names, added)))
    if not arguments:
        print(FIRST)
        return 2
    first = arguments[0]
    names, added = _commands(invocation, first)
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working folder is gone; change into one that exists") from None
    command: Any = get_command(build(names, added))
    try:
        code = command.main(arguments, prog_name="hft", obj=invocation, standalone_mode=False)
    except REFUSED as error:
        alone = command.commands[first].params if first in command.commands else ()
        options = [*EVERYWHERE, "--help", *(name for option in alone for name in option.opts)]
        raise usage_error(error, f"hft {first}" if alone else "hft", options) from error
    return int(code or 0)


def _commands(invocation: Invocation, first: str) -> tuple[Iterable[str], dict[str, Callable[..., Any]]]:
    """Return the command that is called, or all for an option such as --help: names of ours, functions of others."""
    if first in COMMANDS:
        return [first], {}
    from hft_core.cli import plugin_commands

    points = plugin_commands.find(invocation)
    if first.startswith("-"):
        others = [name for name in points if name not in COMMANDS]
        return COMMANDS, {name: plugin_commands.for_help(points, name) for name in others}
    if first in points:
        return [], {first: plugin_commands.load(points, first)}
    from hft_core.recipe.did_you_mean import suggest_command

    raise UsageError(f"there is no command '{first}'.{suggest_command(first, [*COMMANDS, *points])}")


def _failed(message: str, code: int, *, debug: bool) -> int:
    if debug:
        for line in traceback.format_exc().splitlines():
            say_error(line)
    with suppress(OSError, ValueError):  # nobody reads it any more: a closed terminal, a full disk
        say_error(message)
    return code


def _unexpected(error: BaseException, *, debug: bool) -> str:
    """Return the message of an error that nobody foresaw."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:  # of a class that cannot even say what it is
        text = "without a message"
    if isinstance(error, SystemExit):
        text = f"a plugin or library ended the process with {error.code!r}"
    where = "" if debug else " (run again with --debug for the traceback)"
    return f"error: unexpected {kind}{': ' if text else ''}{shortened(text)}{where}"


def _code_of(error: BaseException) -> int:
    """Return the exit code of an error that nobody foresaw; never 0."""
    code = error.code if isinstance(error, SystemExit) else 1
    return code if isinstance(code, int) and 0 < code < 256 else 1


def _write_any_text() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
