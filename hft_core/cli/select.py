"""`hft select`: choose the rows to label next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.predict import check_output
from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import say, say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.active_learning.select import Selection
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.predict.saved_run import SavedRun


def select(
    ctx: typer.Context,
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Folders of finished runs; several to see where they disagree.")
    ],
    input: Annotated[str, typer.Option("--input", metavar="FILE", help="Rows without labels, of any data format.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", metavar="FILE", help="Write the chosen rows there (.csv, .tsv, .parquet, or JSON lines)."
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Rows to choose.")] = 100,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            metavar="margin|entropy|disagreement|vote-entropy|diversity",
            help="margin, entropy: the rows that a run is least sure of; disagreement, vote-entropy: those that "
            "several runs differ about; diversity: those that are least alike.",
        ),
    ] = "margin",
    task: Annotated[
        str | None, typer.Option("--task", metavar="T", help="The task to label for; may be left out where one is.")
    ] = None,
    labeled: Annotated[
        Path | None,
        typer.Option("--labeled", metavar="FILE", help="Rows that are labeled already: none of them is chosen."),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Choose the rows whose labels would teach the most (active learning)."""
    check_output(output, "--output")
    from hft_core.active_learning.select import check_criterion, select_file
    from hft_core.cli.row_progress import row_progress
    from hft_core.recipe.names import normalized

    check_criterion(by, len(run))
    places = [folder.absolute() for folder in run]
    if twice := next((folder for folder in run if places.count(folder.absolute()) > 1), None):
        raise UsageError(f"{twice} is named twice, expected different runs: a run agrees with itself")
    named = None if task is None else normalized(task)
    runs = _Runs(run, ctx.obj.catalogue, trust_remote_code=trust_remote_code)
    with row_progress() as show:
        found = select_file(runs, named, input, output, n, by, labeled=labeled, on_progress=show)
    _print(found, n, by, output)


class _Runs:
    """Opens runs one after another, so that they are not all in memory."""

    def __init__(self, folders: Sequence[Path], catalogue: Catalogue, *, trust_remote_code: bool) -> None:
        self._folders, self._catalogue, self._trust = folders, catalogue, trust_remote_code

    def __len__(self) -> int:
        return len(self._folders)

    def __iter__(self) -> Iterator[SavedRun]:
        from hft_core.predict.saved_run import open_run

        for folder in self._folders:
            saved = open_run(folder, self._catalogue, trust_remote_code=self._trust, merge=True)
            for warning in saved.warnings:
                say_error(f"warning: {warning}")
            yield saved


def _print(found: Selection, wanted: int, by: str, output: Path) -> None:
    left = [f"{count:,} {what}" for count, what in ((found.repeated, "repeated"), (found.labeled, "labeled")) if count]
    without = f" without {' and '.join(left)} ones" if left else ""
    values = [chosen.value for chosen in found.chosen if chosen.value is not None]
    span = f", {by} {values[0]:.4g} to {values[-1]:.4g}" if values else ""
    say(f"{len(found.chosen):,} of {found.rows:,} rows{without}{span}: {output}")
    if len(found.chosen) < wanted:
        say_error(f"warning: there were no {wanted:,} rows to choose from")
