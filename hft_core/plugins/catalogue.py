"""The catalogue of plugins: what is there, in which state, and how one is picked by name.

Light (pluggy, packaging and the standard library): a plugin's implementation is imported when it is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import PluginError, did_you_mean
from hft_core.plugins import suggestions
from hft_core.plugins.allowlist import OWN, Admission
from hft_core.plugins.discovery import Entry, Found, Provider, State, file_plugin, installed, one_line, question
from hft_core.specs import SEAMS, load

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Catalogue", "Entry", "Provider", "State"]

Key = tuple[str, str]
"""Seam and name."""


class Catalogue:
    """The plugins that one host can use. It never changes after it was made."""

    def __init__(self, found: Iterable[Found], owners: Mapping[Key, str] | None = None) -> None:
        """`owners`: the distribution that the plain name of a plugin means where several have it."""
        self._found = tuple(found)
        self._owners = dict(owners or {})
        self._rivals: dict[Key, list[Entry]] = defaultdict(list)
        for entry in _without_copies(entry for part in self._found for entry in part.entries):
            self._rivals[entry.seam, entry.name].append(entry)
        listed = map(self._with_conflict, chain.from_iterable(self._rivals.values()))
        self.entries: tuple[Entry, ...] = tuple(sorted(listed, key=_order))
        """All plugins, usable or not, by seam and name; those of unknown seam last."""
        observing = tuple(item for part in self._found for item in part.observers)
        self.observers = tuple((entry.provider.label, module) for entry, module in observing)
        """Label and module of each provider that implements lifecycle hooks, in calling order."""
        self.observing: tuple[Entry, ...] = tuple(entry for entry, _ in observing)
        """An entry for each of `observers`."""

    @classmethod
    def discover(
        cls, block: Iterable[str] = (), inline: Iterable[str | Path] = (), allow: Iterable[str] | None = None
    ) -> Catalogue:
        """The plugins of the environment and of the files `inline`.

        Nothing is loaded of the distributions `block`, nor of those that are not in `allow` when it is given: hft-core
        and the ones it names, and an empty one means no third party. The environment variables `HFT_BLOCK` and
        `HFT_ALLOW` are further such lists. A file was asked for by name, and is loaded whatever they say.

        Raises `PluginError` for a file that cannot be used, and for a list with what is no distribution's name; a
        faulty installed plugin is listed with its state.
        """
        admission = Admission.of(block, allow)
        files = {Path(path).resolve(): path for path in inline}
        return cls([*installed(admission), *(file_plugin(path) for path in files.values())])

    @classmethod
    def of(cls, *modules: object) -> Catalogue:
        """The plugins of the given modules only, whatever is installed: for tests and closed hosts."""
        return cls(question(m, Provider(getattr(m, "__name__", type(m).__name__))) for m in modules)

    def preferring(self, owners: Mapping[Key, str]) -> Catalogue:
        """The same plugins, where a plain name that several distributions have means that of the given one."""
        return Catalogue(self._found, owners)

    def seam(self, name: str) -> tuple[Entry, ...]:
        """The entries of one seam. Raises `PluginError` for an unknown seam."""
        if name not in SEAMS:
            raise PluginError(f"unknown seam '{name}'.{did_you_mean(name, SEAMS)}")
        return tuple(entry for entry in self.entries if entry.seam == name)

    def find(self, seam: str, name: str) -> Entry:
        """The one entry that `name` or `distribution:name` means, whatever its state.

        Raises `PluginError` when there is none, or more than one.
        """
        self.seam(seam)
        owner, _, plain = name.rpartition(":")
        if owner:
            entries = [e for e in self._rivals.get((seam, plain), ()) if e.provider.answers_to(owner)]
        else:
            entries = self._candidates(seam, plain)
        if not entries:
            raise PluginError(suggestions.unknown(self.entries, seam, name))
        if len(entries) > 1:
            raise PluginError(_ambiguous(seam, plain, entries))
        return entries[0]

    def get(self, seam: str, name: str) -> Entry:
        """The usable entry that `name` or `distribution:name` means.

        Raises `PluginError` when it is unknown, ambiguous, or in a state other than ok.
        """
        entry = self.find(seam, name)
        if entry.state is not State.OK:
            raise PluginError(
                f"{seam} '{name}' of {entry.provider.label} is not available: {entry.status}: {entry.reason}"
            )
        return entry

    def load_factory(self, entry: Entry) -> Callable[..., Any]:
        """The callable that builds the plugin. Raises `PluginError` when its module cannot be imported."""
        factory = _load(entry, "factory")
        if not callable(factory):
            raise PluginError(f"{_title(entry)}: its factory {_spec_text(entry, 'factory')} is not callable")
        return factory  # type: ignore[no-any-return]

    def load_options(self, entry: Entry) -> type[BaseModel]:
        """The pydantic model of the plugin's options. Raises `PluginError` when it cannot be imported or is none."""
        options = _load(entry, "options")
        if not (isinstance(options, type) and hasattr(options, "model_fields")):
            raise PluginError(f"{_title(entry)}: its options {_spec_text(entry, 'options')} are not a pydantic model")
        return options

    def load_opens(self, entry: Entry) -> Callable[[str], bool] | None:
        """A backbone's function that says whether it opens a model; None without one. Raises `PluginError`."""
        if not getattr(entry.spec, "opens", ""):
            return None
        return _load(entry, "opens")  # type: ignore[no-any-return]

    def load_example(self, entry: Entry, field: str) -> Callable[..., Any] | None:
        """The function that a spec's `example_rows` or `example_model` names, or None. Raises `PluginError`."""
        if not getattr(entry.spec, field, ""):
            return None
        return _load(entry, field)  # type: ignore[no-any-return]

    def not_loaded(self) -> str:
        """A sentence for each provider that could not be asked what it has: it may be the one that is looked for."""
        return suggestions.not_loaded(self.entries)

    def _candidates(self, seam: str, plain: str) -> list[Entry]:
        """The entries that a plain name may mean: those of its owner, if it has one; else all that are rivals."""
        entries = self._rivals.get((seam, plain), [])
        owner = self._owners.get((seam, plain), "")
        return (
            [entry for entry in entries if owner and entry.provider.answers_to(owner)]
            or [entry for entry in entries if entry.state in _RIVALS]
            or entries
        )

    def _with_conflict(self, entry: Entry) -> Entry:
        rivals = [rival for rival in self._rivals[entry.seam, entry.name] if rival.state in _RIVALS]
        if entry.state not in _RIVALS or len(rivals) == 1:
            return entry
        return replace(entry, state=State.CONFLICT, reason=_ambiguous(entry.seam, entry.name, rivals), needs=())


_RIVALS = (State.OK, State.NEEDS)
"""States of a plugin that takes a name: one that can never be used here stands in nobody's way."""


def _without_copies(entries: Iterable[Entry]) -> list[Entry]:
    """The entries, where a distribution that offers a plugin of hft-core as its own does not compete with it.

    It happens when a module imports the hook functions of a built-in one.
    """
    found = list(entries)
    own = {_identity(entry): entry.provider for entry in found if entry.spec and entry.provider.distribution == OWN}
    for i, entry in enumerate(found):
        owner = own.get(_identity(entry))
        if owner is not None and entry.provider.distribution != OWN:
            reason = f"is the {entry.seam} '{entry.name}' of {owner.label} once more"
            found[i] = replace(entry, state=State.CONFLICT, reason=reason, needs=())
    return found


def _identity(entry: Entry) -> tuple[str, str, str]:
    return entry.seam, entry.name, entry.spec.factory if entry.spec else ""


def _order(entry: Entry) -> tuple[int, str, str]:
    seams = [*SEAMS, ""]
    return seams.index(entry.seam), entry.name, entry.provider.label


def _title(entry: Entry) -> str:
    return f"{entry.seam} '{entry.name}' of {entry.provider.label}"


def _spec_text(entry: Entry, attribute: str) -> str:
    return f"'{getattr(entry.spec, attribute)}'"


def _ambiguous(seam: str, name: str, rivals: Sequence[Entry]) -> str:
    labels = [entry.provider.label for entry in rivals]
    choices = [f"'{entry.provider.distribution}:{name}'" for entry in rivals]
    if len(set(choices)) < len(choices):
        return f"{seam} '{name}' is provided more than once by {' and '.join(sorted(set(labels)))}; block one of them"
    providers = " and by ".join(labels)
    return f"{seam} '{name}' is provided by {providers}; write {' or '.join(choices)}, or block one of them"


def _load(entry: Entry, attribute: str) -> Any:
    """The object behind an import string of the entry's spec."""
    if entry.spec is None:
        raise PluginError(f"{_title(entry)} is not available: {entry.status}: {entry.reason}")
    target: str = getattr(entry.spec, attribute)
    module, _, name = target.partition(":")
    file = entry.provider.path
    # A single file speaks of itself by its own name, but is imported under a unique one.
    own = file is not None and module == file.stem
    try:
        return load(f"{entry.provider.module}:{name}" if own else target)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{_title(entry)}: cannot load its {attribute} '{target}': {one_line(error)}") from error
