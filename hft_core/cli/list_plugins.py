"""`hft list-plugins`: every plugin, usable or not, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli.terminal import plain, print_json, print_table, say
from hft_core.specs import Spec

if TYPE_CHECKING:
    from hft_core.plugins import Catalogue, Entry

COMMON = frozenset(field.name for field in fields(Spec))
"""Spec fields that all seams share; the others are a plugin's capabilities."""


def list_plugins(
    ctx: typer.Context,
    seam: Annotated[str, typer.Option(metavar="SEAM", help="Only this seam (backbone, head, strategy, …).")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Add sources, import times and the tracebacks of broken plugins.")
    ] = False,
) -> None:
    """List the installed plugins and their states."""
    catalogue: Catalogue = ctx.obj.catalogue
    entries = catalogue.entries
    if seam:
        known = catalogue.seam(seam)
        # A provider that could not be asked may have plugins of this seam: its reason is shown too.
        entries = (*known, *(entry for entry in entries if not entry.seam))
    if as_json:
        print_json([describe_entry(entry, verbose=verbose) for entry in entries])
        return
    if not entries:
        say("No plugins found." if catalogue.entries else "No plugins are installed; run 'pip install -e .'")
        return
    _print_entries(entries, verbose=verbose)
    if catalogue.observers and not seam:
        say()
        say(f"Observers of runs: {', '.join(label for label, _ in catalogue.observers)}")


def describe_entry(entry: Entry, *, verbose: bool = False) -> dict[str, Any]:
    """An entry as JSON holds it; seam and summary are null where they are not known."""
    spec = entry.spec
    described: dict[str, Any] = {
        "seam": entry.seam or None,
        "name": entry.name,
        "summary": spec.summary if spec else None,
        "provider": entry.provider.distribution,
        "version": entry.provider.version,
        "state": entry.status,
        "reason": entry.reason,
        "capabilities": capabilities(spec) if spec else {},
        "source": spec.source if spec else "",
    }
    if verbose:
        described |= {"seconds": entry.seconds, "traceback": entry.traceback}
    return described


def capabilities(spec: Spec) -> dict[str, Any]:
    """What the spec says beyond the fields that all seams share."""
    return {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in COMMON}


def _print_entries(entries: Sequence[Entry], *, verbose: bool) -> None:
    headings = ["seam", "name", "summary", "provider", "version", "state"]
    rows = [_row(entry) for entry in entries]
    if verbose:
        headings += ["import", "source"]
        rows = [
            [*row, f"{entry.seconds * 1000:.0f} ms", entry.spec.source if entry.spec else ""]
            for row, entry in zip(rows, entries, strict=True)
        ]
    print_table(headings, rows, wrap=("summary", "source"))
    faulty = [entry for entry in entries if entry.reason]
    if faulty:
        say()
    for entry in faulty:
        say(f"{entry.seam or 'plugins'} {entry.name} ({entry.provider.label}) is {entry.state}: {entry.reason}")
        for line in entry.traceback.splitlines() if verbose else ():
            print(f"    {plain(line)}")


def _row(entry: Entry) -> list[str]:
    summary = entry.spec.summary if entry.spec else "-"
    provider = entry.provider
    return [entry.seam or "-", entry.name, summary, provider.distribution, provider.version or "-", entry.status]
