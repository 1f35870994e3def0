"""What to say about a plugin that is not there: the nearest name, the seam or the package that has it; light."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from hft_core.errors import did_you_mean
from hft_core.plugins.allowlist import normalised
from hft_core.plugins.discovery import Entry
from hft_core.plugins.known_plugins import known_distributions, known_owners
from hft_core.specs import SEAMS

MOST_NAMED = 3
"""Providers that could not be asked, by name; the rest are counted."""


def unknown(entries: Sequence[Entry], seam: str, name: str) -> str:
    """The message for a plugin that none of `entries` is, one line. `name` may be `distribution:name`."""
    if not entries:
        return f"unknown {seam} '{name}': no plugins are installed; run 'pip install -e .'"
    owner, _, plain = name.rpartition(":")
    named = [entry for entry in entries if entry.spec is not None]
    hints = _of_owner(named, seam, owner, plain) + _hints(named, seam, plain)
    return f"unknown {seam} '{name}'.{hints}{not_loaded(entries)}"


def not_loaded(entries: Iterable[Entry]) -> str:
    """A sentence for each provider that could not be asked what it has: it may be the one that is looked for."""
    silent = [entry for entry in entries if not entry.seam]
    told = "".join(f" Not loaded: {e.provider.label} ({e.name}): {e.reason}." for e in silent[:MOST_NAMED])
    more = len(silent) - MOST_NAMED
    return told + (f" Not loaded: {more} more, see 'hft list-plugins'." if more > 0 else "")


def _of_owner(named: Sequence[Entry], seam: str, owner: str, plain: str) -> str:
    """Whether the distribution that was asked for is there, and which ones have the plugin."""
    text = ""
    if owner and not any(entry.provider.answers_to(owner) for entry in named):
        listed = [known.name for known in known_distributions() if normalised(known.name) == normalised(owner)]
        text = f" No plugin of '{owner}' is loaded" + (f": pip install {listed[0]}." if listed else ".")
    labels = sorted({e.provider.label for e in named if e.seam == seam and e.name == plain})
    return text + (f" '{plain}' is provided by {' and '.join(labels)}." if labels else "")


def _hints(named: Sequence[Entry], seam: str, plain: str) -> str:
    here = {entry.name for entry in named if entry.seam == seam}
    if plain in here:
        return ""
    elsewhere = sorted({entry.seam for entry in named if entry.name == plain and entry.seam != seam})
    listed = known_owners(seam)
    if elsewhere:
        return f" There is a {' and a '.join(elsewhere)} of that name."
    if plain in listed:
        return f" It is a {seam} of {listed[plain]}, which is not loaded: pip install {listed[plain]}."
    if _nearest(plain, here):
        return did_you_mean(plain, here)
    pattern = " Other packages with plugins are called hft-…."
    return _further_away(named, seam, plain) or did_you_mean(plain, here) + pattern


def _further_away(named: Sequence[Entry], seam: str, plain: str) -> str:
    """The nearest name that is known but not loaded, or that another seam has; empty when none is near."""
    listed = known_owners(seam)
    near = _nearest(plain, listed)
    if near:
        return f" Did you mean '{near}' of {listed[near]}, which is not loaded? (pip install {listed[near]})"
    for other in SEAMS:
        near = _nearest(plain, {entry.name for entry in named if entry.seam == other})
        if near:
            return f" Did you mean the {other} '{near}'?"
    return ""


def _nearest(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), n=1)), "")
