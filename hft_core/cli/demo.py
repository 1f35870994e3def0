"""`hft demo`: the ready-made recipe called `demo`, from whichever installed package provides it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from hft_core.cli.run import OutOption, SetOption, new_run_folder, print_result, run_source
from hft_core.cli.terminal import print_json, say


def demo(
    ctx: typer.Context,
    out: OutOption = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Adapt a real encoder to real news, offline, in minutes."""
    from hft_core.recipe_file import override
    from hft_core.recipe_source import Source
    from hft_core.results import check_unused

    catalogue = ctx.obj.catalogue
    entry = catalogue.get("recipe", "demo")
    folder = out or new_run_folder("demo")
    check_unused(folder)
    recipe = catalogue.load_factory(entry)(catalogue.load_options(entry)(), folder=folder.resolve() / "data")
    result = run_source(override(Source.of(recipe, "demo recipe", folder), set_ or ()), catalogue, folder)
    if as_json:
        print_json(result.to_json())
        return
    print_result(result)
    say()
    say("next:")
    for command in entry.spec.next:
        say("  " + command.replace("RUN", shlex.quote(str(folder))))
