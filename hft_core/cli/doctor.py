"""`hft doctor`: say what would hinder a run on this machine, and how to fix it; imports no torch."""

from __future__ import annotations

from dataclasses import asdict

import typer

from hft_core.cli.run import JsonOption
from hft_core.cli.terminal import print_json, print_table
from hft_core.errors import RunError


def doctor(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Check machine, packages, plugins, caches, disk, memory and hub, with a fix for each problem."""
    from hft_core.inspection.doctor import Verdict, examine

    findings = examine(ctx.obj.catalogue)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.verdict, finding.what, finding.message, finding.fix) for finding in findings]
        print_table(("", "what", "found", "fix"), rows, wrap=("found", "fix"))
    wrong = sum(finding.verdict is Verdict.ERROR for finding in findings)
    if wrong:
        raise RunError(f"{wrong} of {len(findings)} findings make every run fail: those marked '{Verdict.ERROR}'")
