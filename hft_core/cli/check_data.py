"""`hft check-data`: look for what is wrong with rows before they are learned from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.terminal import print_json, print_table, say
from hft_core.errors import RunError, UsageError

if TYPE_CHECKING:
    from hft_core.inspection.data_check import DataReport, TaskFindings

RECIPES = (".yaml", ".yml")
SHOWN = 8
"""Classes that are listed."""


def check_data(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="RECIPE|FILE…", help="A recipe (.yaml), or data files.")],
    exact: Annotated[bool, typer.Option("--exact", help="Look for equal texts only, not for near duplicates.")] = False,
    cleaned: Annotated[
        Path | None,
        typer.Option(
            "--cleaned", metavar="DIR", help="Write a copy without duplicates, and what was left out and why."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check rows for duplicates, leaks between splits, rare classes, doubtful labels, languages and personal data."""
    if cleaned is not None and cleaned.exists() and (not cleaned.is_dir() or any(cleaned.iterdir())):
        raise UsageError(f"--cleaned {cleaned}: it is there and not empty; name a new folder")
    recipes = [file for file in files if Path(file).suffix.lower() in RECIPES]
    if recipes and len(files) > 1:
        raise UsageError("give one recipe, or data files, not both")
    from hft_core.inspection import cleaned_copy, data_check

    if recipes:
        from hft_core.cli.run import resolved_of
        from hft_core.recipe.recipe_file import read

        tasks = data_check.of_recipe(resolved_of(read(Path(files[0])), ctx.obj.catalogue))
    else:
        tasks = data_check.of_files(files)
    report = data_check.check(tasks, near=not exact)
    try:
        written = [] if cleaned is None else cleaned_copy.write(cleaned, tasks, report)
    except OSError as error:
        raise RunError(f"--cleaned {cleaned}: cannot be written to: {error.strerror}") from None
    if as_json:
        print_json({**asdict(report), "written": [str(path) for path in written]})
        return
    _print(report)
    if cleaned is not None:
        say()
        say(f"{len(report.dropped)} rows are left out of the copy in {cleaned}; which, and why: {written[-1]}")


def _print(report: DataReport) -> None:
    for name, found in report.tasks.items():
        say(f"{name}: " + ", ".join(f"{count:,} rows in {split}" for split, count in found.rows.items()))
        print_table(("", "", ""), [("", what, text) for what, text in _lines(found)])
    for which, count in report.shared.items():
        say(f"{count:,} texts of {which}")


def _lines(found: TaskFindings) -> list[tuple[str, str]]:
    lines = [
        ("repeated texts", _counts(found.repeated)),
        ("nearly repeated texts", _counts(found.near)),
        ("texts of one split in another", _counts(found.leaked)),
        ("same text, other label", f"{found.contradictions:,}" if found.contradictions else "none"),
        ("languages", ", ".join(f"{name} {share:.0%}" for name, share in found.languages.items()) or "unknown"),
        ("rows with personal data", _counts(found.personal)),
    ]
    if found.classes:
        names = list(found.classes.items())
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        ratio = names[0][1] / names[-1][1]
        listed = ", ".join(f"{name} {count:,}" for name, count in names[:SHOWN])
        lines.append(("classes", f"{listed}{more}; largest to smallest {ratio:.1f}; {found.rare} rare"))
        lines.append(("doubtful labels", f"{found.doubtful:,}"))
        lines += [
            ("", f"{row['place']}: {row['label']}, rather {row['likelier']} ({row['probability']:.2f})")
            for row in found.examples
        ]
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} ({what})" for what, count in counts.items()) or "none"
