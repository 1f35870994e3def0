"""`hft check`: verify the files of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.terminal import print_json, say


def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check that the files of a run are as they were written; 1 where one is not."""
    from hft_core.runtime.run_check import check_run

    found = check_run(run)
    if as_json:
        print_json(asdict(found))
    else:
        for each in found.problems:
            say(f"{each.file}: {each.problem}")
        kind = "finished" if found.finished else "not finished; its checkpoints were checked"
        say(f"{run}: {kind}; {found.files} files, {len(found.problems)} damaged")
    if found.problems:
        raise typer.Exit(1)
