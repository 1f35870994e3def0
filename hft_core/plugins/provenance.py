"""Where each plugin of a run comes from (distribution, version, file), and whether a reopened run finds the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from hft_core.errors import PluginError
from hft_core.plugins.catalogue import Catalogue, Key
from hft_core.plugins.discovery import Entry

Origin = Mapping[str, str]
"""What a run's record says of one plugin: `seam`, `name`, `distribution`, `version`, and `sha256` of a single file."""


def origin(entry: Entry) -> dict[str, str]:
    """What the record of a run says of a plugin that it uses."""
    provider = entry.provider
    facts = {"seam": entry.seam, "name": entry.name, "distribution": provider.distribution, "version": provider.version}
    return {**facts, "sha256": provider.sha256} if provider.sha256 else facts


def owners(record: Iterable[Origin]) -> dict[Key, str]:
    """The distribution that each plain name meant in the run, for `Catalogue.preferring`.

    A name that the run used of several distributions has none: its recipe says which one it means.
    """
    by_name: dict[Key, set[str]] = defaultdict(set)
    for used in record:
        by_name[used["seam"], used["name"]].add(used["distribution"])
    return {key: next(iter(names)) for key, names in by_name.items() if len(names) == 1}


def differences(record: Iterable[Origin], catalogue: Catalogue) -> list[str]:
    """A sentence for each distribution or file that is here in another version than the run was made with.

    Raises `PluginError` for a plugin of the run that is not here, or cannot be used.
    """
    changed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for used in record:
        here = origin(_entry_here(used, catalogue))
        if _what(here) != _what(used):
            changed[_label(used), _label(here)].append(f"{used['seam']} '{used['name']}'")
    return [f"made with {before} and opened with {here}: {', '.join(n)}" for (before, here), n in changed.items()]


def _entry_here(used: Origin, catalogue: Catalogue) -> Entry:
    seam, name, distribution = used["seam"], used["name"], used["distribution"]
    own = [e for e in catalogue.entries if e.provider.answers_to(distribution)]
    qualified = any((e.seam, e.name) == (seam, name) for e in own)
    try:
        return catalogue.get(seam, f"{distribution}:{name}" if qualified else name)
    except PluginError as error:
        made = f"the run was made with {seam} '{name}' of {_label(used)}"
        if used.get("sha256"):
            raise PluginError(f"{made}: give that file with --plugin ({error})") from error
        labels = sorted({entry.provider.label for entry in own})
        without = f", and {' and '.join(labels)}, which is here, has none" if labels and not qualified else ""
        raise PluginError(f"{made}{without}: {error}") from error


def _what(facts: Origin) -> tuple[str, str]:
    """What has to be the same: the content of a file wherever it is, or a distribution and its version."""
    digest = facts.get("sha256", "")
    return ("", digest) if digest else (facts["distribution"], facts["version"])


def _label(facts: Origin) -> str:
    digest = facts.get("sha256", "")
    more = f"(sha256 {digest[:12]}…)" if digest else facts["version"]
    return f"{facts['distribution']} {more}".strip()
