"""`hft init`: write a recipe for data files; asks nothing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.terminal import say, say_error
from hft_core.errors import UsageError


def init(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE…", help="Data files, or folders of text files by class."),
    ],
    unlabeled: Annotated[
        list[str] | None,
        typer.Option("--unlabeled", metavar="FILE", help="Texts without labels; may be repeated."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH", help="The model: a folder, a GGUF file or a hub id.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The recipe to write; never overwritten.")] = Path(
        "recipe.yaml"
    ),
) -> None:
    """Write a commented recipe for data files: heads, columns, model and stages, each with its reason."""
    if os.path.lexists(out):
        raise UsageError(f"{out} exists, and hft init overwrites nothing; name another file with --out")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder '{out.parent}'")
    from hft_core.inspection.draft import draft
    from hft_core.inspection.draft_text import recipe_text, summary

    found = draft(files, unlabeled or [], model, out.parent, ctx.obj.catalogue)
    text = recipe_text(found, shlex.quote(str(out)))
    try:
        with out.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror}") from None
    for line in summary(found):
        say(line)
    for reason in found.reasons:
        say(reason)
    if found.model_why:
        say_error(f"model: {found.data['backbone']['model']}: {found.model_why}")
    say()
    say(f"next: hft validate {shlex.quote(str(out))}; then: hft run {shlex.quote(str(out))}")
