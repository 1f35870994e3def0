"""Record where each plugin of a run comes from, and compare the record when the run is reopened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from hft_core.errors import PluginError
from hft_core.plugins.catalogue import Catalogue, Key
from hft_core.plugins.entries import Entry

Origin = Mapping[str, str]
"""A run's record of one plugin: `seam`, `name`, `distribution`, `version`, and `sha256` for a single file."""


def origin(entry: Entry) -> dict[str, str]:
    """Return the record of a plugin that a run uses."""
    provider = entry.provider
    record = {
        "seam": entry.seam,
        "name": entry.name,
        "distribution": provider.distribution,
        "version": provider.version,
    }
    return {**record, "sha256": provider.sha256} if provider.sha256 else record


def owners(record: Iterable[Origin]) -> dict[Key, str]:
    """Return the distribution that each unqualified name referred to in the run, for `Catalogue.preferring`.

    Names that the run used from several distributions are left out: its recipe qualifies them.
    """
    by_name: dict[Key, set[str]] = defaultdict(set)
    for used in record:
        by_name[used["seam"], used["name"]].add(used["distribution"])
    return {key: next(iter(names)) for key, names in by_name.items() if len(names) == 1}


def differences(record: Iterable[Origin], catalogue: Catalogue) -> list[str]:
    """Return a sentence for each distribution or file whose version differs from the one the run was made with.

    Raises `PluginError` for a plugin of the run that is not installed or not usable.
    """
    changed: dict[tuple[str, str], list[str]] = defaultdict(list)
    for used in record:
        current = origin(_current_entry(used, catalogue))
        if _identity(current) != _identity(used):
            changed[_label(used), _label(current)].append(f"{used['seam']} '{used['name']}'")
    return [f"made with {before} and opened with {here}: {', '.join(n)}" for (before, here), n in changed.items()]


def _current_entry(used: Origin, catalogue: Catalogue) -> Entry:
    seam, name, distribution = used["seam"], used["name"], used["distribution"]
    own = [e for e in catalogue.entries if e.provider.matches(distribution)]
    qualified = any((e.seam, e.name) == (seam, name) for e in own)
    try:
        return catalogue.get(seam, f"{distribution}:{name}" if qualified else name)
    except PluginError as error:
        recorded = f"the run was made with {seam} '{name}' of {_label(used)}"
        if used.get("sha256"):
            raise PluginError(f"{recorded}: give that file with --plugin ({error})") from error
        labels = sorted({entry.provider.label for entry in own})
        without = f", and {' and '.join(labels)}, which is here, has none" if labels and not qualified else ""
        raise PluginError(f"{recorded}{without}: {error}") from error


def _identity(record: Origin) -> tuple[str, str]:
    """Return what must be equal: the content of a file wherever it is, or a distribution and its version."""
    digest = record.get("sha256", "")
    return ("", digest) if digest else (record["distribution"], record["version"])


def _label(record: Origin) -> str:
    digest = record.get("sha256", "")
    version = f"(sha256 {digest[:12]}…)" if digest else record["version"]
    return f"{record['distribution']} {version}".strip()
