"""`hft list-plugins`: every plugin, usable or not, and why not."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli.terminal import plain, print_json, print_table, say
from hft_core.errors import PluginError, did_you_mean
from hft_core.specs import Spec

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue, Entry

COMMON = frozenset(field.name for field in fields(Spec))
"""Spec fields that all seams share; the others are a plugin's capabilities."""

UNSAID = ("example_rows", "example_model", "next")
"""Fields of single seams that are no capability."""

WIDE = 160
"""Columns of a terminal from which on capabilities and sources are shown without being asked for."""


def list_plugins(
    ctx: typer.Context,
    seam: Annotated[str, typer.Option(metavar="SEAM", help="Only this seam (backbone, head, strategy, …).")] = "",
    provider: Annotated[str, typer.Option(metavar="DIST", help="Only of this distribution or file.")] = "",
    state: Annotated[str, typer.Option(metavar="STATE", help="Only in this state (ok, broken, needs, …).")] = "",
    search: Annotated[str, typer.Option(metavar="TEXT", help="Only with this text in any column.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Add all columns, and the tracebacks of broken plugins.")
    ] = False,
) -> None:
    """List the installed plugins and their states."""
    catalogue: Catalogue = ctx.obj.catalogue
    entries = selected(catalogue, seam=seam, provider=provider, state=state, search=search)
    if as_json:
        print_json([describe_entry(entry, verbose=verbose) for entry in entries])
        return
    if not (catalogue.entries or catalogue.observing):
        say("No plugins are installed; run 'pip install -e .'")
    elif not entries:
        say("No plugin matches.")
    else:
        _print_entries(entries, verbose=verbose)


def selected(catalogue: Catalogue, *, seam: str, provider: str, state: str, search: str) -> list[Entry]:
    """The entries that fit all of what is not empty, and after them those that only observe runs.

    Raises `PluginError` for a seam, provider or state that there is not.
    """
    from hft_core.plugins.entries import OBSERVER, State

    everything = [*catalogue.entries, *catalogue.observing]
    entries = everything
    if seam:
        known = catalogue.observing if seam == OBSERVER else catalogue.seam(seam)
        # A provider that could not be asked may have plugins of this seam: its reason is shown too.
        entries = [*known, *(entry for entry in everything if not entry.seam)]
    if provider:
        entries = [entry for entry in entries if entry.provider.matches(provider)]
        if not any(entry.provider.matches(provider) for entry in everything):
            names = {entry.provider.distribution for entry in everything}
            raise PluginError(f"'{provider}' has no plugins here.{did_you_mean(provider, names)}")
    if state:
        if state not in set(State):
            raise PluginError(f"unknown state '{state}'.{did_you_mean(state, State)}")
        entries = [entry for entry in entries if entry.state == state]
    if search:
        entries = [entry for entry in entries if search.lower() in _text(entry).lower()]
    return entries


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
        "warnings": list(entry.warnings),
    }
    if verbose:
        described |= {"seconds": entry.seconds, "traceback": entry.traceback}
    return described


def capabilities(spec: Spec) -> dict[str, Any]:
    """What the spec says beyond the fields that all seams share."""
    return {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in COMMON}


def _print_entries(entries: Sequence[Entry], *, verbose: bool) -> None:
    headings = ["seam", "name", "summary", "provider", "version", "state"]
    everything = verbose or not sys.stdout.isatty() or shutil.get_terminal_size().columns >= WIDE
    if everything:
        headings += ["capabilities", "source"]
    if verbose:
        headings.append("import")
    print_table(headings, [_cells(entry)[: len(headings)] for entry in entries], wrap=("summary", *headings[6:8]))
    _print_reasons(entries, verbose=verbose)
    told = Counter((entry.provider.label, warning) for entry in entries for warning in entry.warnings)
    if told:
        say()
    for label, warning in told:
        say(f"{label}: {warning}")
    if not everything:
        say()
        say("Capabilities and sources: --verbose, or a wider window.")


def _print_reasons(entries: Sequence[Entry], *, verbose: bool) -> None:
    faulty = [entry for entry in entries if entry.reason]
    if faulty:
        say()
    for entry in faulty:
        say(f"{entry.seam or 'plugins'} {entry.name} ({entry.provider.label}) is {entry.state}: {entry.reason}")
        for line in entry.traceback.splitlines() if verbose else ():
            print(f"    {plain(line)}")


def _cells(entry: Entry) -> list[str]:
    spec, provider = entry.spec, entry.provider
    return [
        entry.seam or "-",
        entry.name,
        spec.summary if spec else "-",
        provider.distribution,
        provider.version or "-",
        entry.status,
        _capable(spec) if spec else "-",
        (spec.source or "-") if spec else "-",
        f"{entry.seconds * 1000:.0f} ms",
    ]


def _capable(spec: Spec) -> str:
    """What the plugin can do, in words: what it has or is, and the names in a list."""
    found = [(name, value) for name, value in capabilities(spec).items() if value and name not in UNSAID]
    return ", ".join(f"{n}={'+'.join(value)}" if isinstance(value, tuple) else n for n, value in found) or "-"


def _text(entry: Entry) -> str:
    """What a search looks at."""
    return "\n".join([*_cells(entry)[:-1], entry.reason, *entry.warnings])
