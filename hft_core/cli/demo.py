"""`hft demo`: a ready-made recipe, from whichever installed package provides it."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from hft_core.cli.run import OutOption, SetOption, new_run_folder, print_result, run_source
from hft_core.cli.terminal import print_json, say
from hft_core.specs import RecipeSpec


def demo(
    ctx: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(metavar="NAME[,OPTION=VALUE…]", help="A recipe of 'hft list-plugins --seam recipe'."),
    ] = "demo",
    out: OutOption = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run a ready-made recipe: real news on a real encoder, offline, in minutes, unless another one is named."""
    from hft_core.recipe.fields import PluginChoice
    from hft_core.recipe.flags import plugin_from_flag
    from hft_core.recipe.recipe_file import override
    from hft_core.recipe.resolve import choose
    from hft_core.recipe.yaml_source import Source
    from hft_core.runtime.run_folder import RunFolder

    catalogue = ctx.obj.catalogue
    choice = PluginChoice.model_validate(plugin_from_flag(recipe, "demo"))
    chosen = choose(catalogue, "recipe", choice, "command line")
    name, spec = chosen.entry.name, chosen.entry.spec
    folder = out or new_run_folder(name)
    RunFolder(folder).check_unused()
    source = Source.of(chosen.build(folder=folder.resolve() / "data"), f"{name} recipe", folder)
    result = run_source(override(source, set_ or ()), catalogue, folder)
    if as_json:
        print_json(result.to_json())
        return
    print_result(result)
    say()
    say("next:")
    for command in spec.next if isinstance(spec, RecipeSpec) else ():
        say("  " + command.replace("RUN", shlex.quote(str(folder))))
