"""Word the error for an unknown plugin: the nearest name, or the seam or package that has it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from hft_core.errors import did_you_mean
from hft_core.plugins.allowlist import normalized
from hft_core.plugins.entries import Entry
from hft_core.plugins.known_plugins import known_distributions, known_owners
from hft_core.specs import SEAMS

MAX_NAMED = 3
"""Providers listed by name when they were not loaded; the rest are counted."""


def message(entries: Sequence[Entry], seam: str, name: str) -> str:
    """Return the one-line message for a name that none of `entries` has. `name` may be `distribution:name`."""
    if not entries:
        return f"unknown {seam} '{name}': no plugins are installed; run 'pip install -e .'"
    owner, _, plain = name.rpartition(":")
    with_spec = [entry for entry in entries if entry.spec is not None]
    suggestions = _owner_suggestions(with_spec, seam, owner, plain) + _name_suggestions(with_spec, seam, plain)
    return f"unknown {seam} '{name}'.{suggestions}{not_loaded(entries)}"


def not_loaded(entries: Iterable[Entry]) -> str:
    """Return a sentence for each provider that was not loaded and may have the missing plugin."""
    unloaded = [entry for entry in entries if not entry.seam]
    sentences = "".join(f" Not loaded: {e.provider.label} ({e.name}): {e.reason}." for e in unloaded[:MAX_NAMED])
    more = len(unloaded) - MAX_NAMED
    return sentences + (f" Not loaded: {more} more, see 'hft list-plugins'." if more > 0 else "")


def _owner_suggestions(entries: Sequence[Entry], seam: str, owner: str, plain: str) -> str:
    """Say whether the requested distribution is loaded, and which distributions have the plugin."""
    text = ""
    if owner and not any(entry.provider.matches(owner) for entry in entries):
        known = [known.name for known in known_distributions() if normalized(known.name) == normalized(owner)]
        text = f" No plugin of '{owner}' is loaded" + (f": pip install {known[0]}." if known else ".")
    labels = sorted({e.provider.label for e in entries if e.seam == seam and e.name == plain})
    return text + (f" '{plain}' is provided by {' and '.join(labels)}." if labels else "")


def _name_suggestions(entries: Sequence[Entry], seam: str, plain: str) -> str:
    same_seam = {entry.name for entry in entries if entry.seam == seam}
    if plain in same_seam:
        return ""
    other_seams = sorted({entry.seam for entry in entries if entry.name == plain and entry.seam != seam})
    owners = known_owners(seam)
    if other_seams:
        return f" There is a {' and a '.join(other_seams)} of that name."
    if plain in owners:
        return f" It is a {seam} of {owners[plain]}, which is not loaded: pip install {owners[plain]}."
    if _nearest(plain, same_seam):
        return did_you_mean(plain, same_seam)
    naming = " Other packages with plugins are called hft-…."
    return _nearest_elsewhere(entries, seam, plain) or did_you_mean(plain, same_seam) + naming


def _nearest_elsewhere(entries: Sequence[Entry], seam: str, plain: str) -> str:
    """Suggest the nearest name that is known but not loaded, or that another seam has; empty without one."""
    owners = known_owners(seam)
    nearest = _nearest(plain, owners)
    if nearest:
        owner = owners[nearest]
        return f" Did you mean '{nearest}' of {owner}, which is not loaded? (pip install {owner})"
    for other in SEAMS:
        nearest = _nearest(plain, {entry.name for entry in entries if entry.seam == other})
        if nearest:
            return f" Did you mean the {other} '{nearest}'?"
    return ""


def _nearest(name: str, known: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), n=1)), "")
