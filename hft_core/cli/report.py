"""`hft report`: one HTML file that shows finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.cli.terminal import say, say_error
from hft_core.errors import UsageError


def report(
    ctx: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN… | STUDY", help="Folders of finished runs, or of one study.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="File to write.")] = Path("report.html"),
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN", help="Also divide the test rows by a column of the data.")
    ] = "",
    texts: Annotated[
        bool, typer.Option("--texts/--no-texts", help="Show the texts of the rows with the largest loss.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write one HTML file that shows how finished runs went and what they got wrong, or what a study says."""
    if out.exists() and not force:
        raise UsageError(f"{out} exists already: name another file with --out, or replace it with --force")
    from hft_core import __version__
    from hft_core.reports import record, row_texts
    from hft_core.reports import study_page as studies
    from hft_core.reports.page import page
    from hft_core.runtime.files import write_text

    found_studies = [folder for folder in runs if (folder / studies.STUDY_FILE).is_file()]
    if found_studies:
        if len(runs) > 1:
            raise UsageError(f"{found_studies[0]} is a study, which has a report of its own: name it alone")
        if by:
            raise UsageError("--by divides the rows of runs: a study has none of its own; name one of its runs")
        study, title = studies.read_study(runs[0]), runs[0].resolve().name
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, studies.study_page(title, study, version=__version__))
        say(f"{out}: {len(study['arms'])} arms, {out.stat().st_size / 1024:.0f} KiB")
        return

    records = [record.read(folder) for folder in runs]
    found = [row_texts.row_texts(folder, ctx.obj.catalogue) if texts or by else row_texts.RowTexts() for folder in runs]
    if by and not any(each.has(by) for each in found):
        why = next((each.problem for each in found if each.problem), "no task's rows have it")
        raise UsageError(f"--by {by}: {why}")
    for folder, each in zip(runs, found, strict=True):
        if each.problem:
            say_error(f"warning: {folder}: the texts of its rows are not shown: {each.problem}")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(records, found, by=by, version=__version__))
    say(f"{out}: {len(records)} run{'s' if len(records) > 1 else ''}, {out.stat().st_size / 1024:.0f} KiB")
