"""`hft doctor`: say what would hinder a run on this machine, and the line that mends it; imports no torch."""

from __future__ import annotations

from dataclasses import asdict

import typer

from hft_core.cli.run import JsonOption
from hft_core.cli.terminal import print_json, print_table
from hft_core.errors import RunError


def doctor(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Check machine, packages, plugins, caches, disk, memory and hub, with the line that mends each problem."""
    from hft_core.inspection.doctor import Verdict, examine

    findings = examine(ctx.obj.catalogue)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.verdict, finding.what, finding.says, finding.mend) for finding in findings]
        print_table(("", "what", "found", "mended by"), rows, wrap=("found", "mended by"))
    wrong = sum(finding.verdict is Verdict.MEND for finding in findings)
    if wrong:
        raise RunError(f"{wrong} of {len(findings)} findings hinder every run: those marked '{Verdict.MEND}'")
