"""Look plugins up by seam and name, and import their implementations at first use."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import PluginError, did_you_mean
from hft_core.plugins import unknown_plugin
from hft_core.plugins.allowlist import OWN, Allowlist
from hft_core.plugins.discovery import collect_specs, file_plugin, installed
from hft_core.plugins.entries import Entry, Provider, ProviderPlugins, State, one_line
from hft_core.specs import SEAMS, load

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["Catalogue", "Entry", "Provider", "State", "accepted"]

Key = tuple[str, str]
"""Seam and name."""


class Catalogue:
    """The plugins that one host can use; immutable."""

    def __init__(self, providers: Iterable[ProviderPlugins], owners: Mapping[Key, str] | None = None) -> None:
        """`owners`: for names that several distributions have, the distribution that the unqualified name refers to."""
        self._providers = tuple(providers)
        self._owners = dict(owners or {})
        self._rivals: dict[Key, list[Entry]] = defaultdict(list)
        for entry in _mark_copies(entry for plugins in self._providers for entry in plugins.entries):
            self._rivals[entry.seam, entry.name].append(entry)
        listed = map(self._with_conflict, chain.from_iterable(self._rivals.values()))
        self.entries: tuple[Entry, ...] = tuple(sorted(listed, key=_order))
        """All plugins, usable or not, sorted by seam and name; those of unknown seam last."""
        observing = tuple(item for plugins in self._providers for item in plugins.observers)
        self.observers = tuple((entry.provider.label, module) for entry, module in observing)
        """Label and module of each provider that implements lifecycle hooks, in calling order."""
        self.observing: tuple[Entry, ...] = tuple(entry for entry, _ in observing)
        """An entry for each of `observers`."""

    @classmethod
    def discover(
        cls, block: Iterable[str] = (), inline: Iterable[str | Path] = (), allow: Iterable[str] | None = None
    ) -> Catalogue:
        """Discover the plugins of the environment and of the files `inline`.

        Distributions in `block` are not loaded, nor, when `allow` is given, those that are neither in it nor hft-core
        (so an empty one means no third party). The environment variables `HFT_BLOCK` and `HFT_ALLOW` add further lists.
        Files are loaded whatever the lists say.

        Raises `PluginError` for a file that cannot be used, and for an invalid distribution name in a list; a broken
        installed plugin is listed with its state.
        """
        allowlist = Allowlist.of(block, allow)
        files = {Path(path).resolve(): path for path in inline}
        return cls([*installed(allowlist), *(file_plugin(path) for path in files.values())])

    @classmethod
    def of(cls, *modules: object) -> Catalogue:
        """Use only the plugins of the given modules, ignoring the environment: for tests and closed hosts."""
        return cls(collect_specs(m, Provider(getattr(m, "__name__", type(m).__name__))) for m in modules)

    def preferring(self, owners: Mapping[Key, str]) -> Catalogue:
        """Return the same plugins, with unqualified names that several distributions have resolved by `owners`."""
        return Catalogue(self._providers, owners)

    def seam(self, name: str) -> tuple[Entry, ...]:
        """Return the entries of one seam. Raises `PluginError` for an unknown seam."""
        if name not in SEAMS:
            raise PluginError(f"unknown seam '{name}'.{did_you_mean(name, SEAMS)}")
        return tuple(entry for entry in self.entries if entry.seam == name)

    def find(self, seam: str, name: str) -> Entry:
        """Return the entry that `name` or `distribution:name` refers to, whatever its state.

        Raises `PluginError` when there is none or more than one.
        """
        self.seam(seam)
        owner, _, plain = name.rpartition(":")
        if owner:
            entries = [e for e in self._rivals.get((seam, plain), ()) if e.provider.matches(owner)]
        else:
            entries = self._candidates(seam, plain)
        if not entries:
            raise PluginError(unknown_plugin.message(self.entries, seam, name))
        if len(entries) > 1:
            raise PluginError(_ambiguous(seam, plain, entries))
        return entries[0]

    def get(self, seam: str, name: str) -> Entry:
        """Return the usable entry that `name` or `distribution:name` refers to.

        Raises `PluginError` when it is unknown, ambiguous, or in a state other than ok.
        """
        entry = self.find(seam, name)
        if entry.state is not State.OK:
            raise PluginError(
                f"{seam} '{name}' of {entry.provider.label} is not available: {entry.status}: {entry.reason}"
            )
        return entry

    def load_factory(self, entry: Entry) -> Callable[..., Any]:
        """Import the callable that builds the plugin. Raises `PluginError` when its module cannot be imported."""
        factory = _load(entry, "factory")
        if not callable(factory):
            raise PluginError(f"{_title(entry)}: its factory {_spec_text(entry, 'factory')} is not callable")
        return factory  # type: ignore[no-any-return]

    def load_options(self, entry: Entry) -> type[BaseModel]:
        """Import the pydantic model of the plugin's options. Raises `PluginError`."""
        options = _load(entry, "options")
        if not (isinstance(options, type) and hasattr(options, "model_fields")):
            raise PluginError(f"{_title(entry)}: its options {_spec_text(entry, 'options')} are not a pydantic model")
        return options

    def load_opens(self, entry: Entry) -> Callable[[str], bool] | None:
        """Import a backbone's `opens` function; None without one. Raises `PluginError`."""
        if not getattr(entry.spec, "opens", ""):
            return None
        return _load(entry, "opens")  # type: ignore[no-any-return]

    def load_example(self, entry: Entry, field: str) -> Callable[..., Any] | None:
        """Import the function that a spec's `example_rows` or `example_model` names; None without one. Raises
        `PluginError`."""
        if not getattr(entry.spec, field, ""):
            return None
        return _load(entry, field)  # type: ignore[no-any-return]

    def not_loaded(self) -> str:
        """Return a sentence for each provider that was not loaded and may have a missing plugin."""
        return unknown_plugin.not_loaded(self.entries)

    def _candidates(self, seam: str, plain: str) -> list[Entry]:
        """Return the entries that an unqualified name may refer to: its owner's, if it has one, else all rivals."""
        entries = self._rivals.get((seam, plain), [])
        owner = self._owners.get((seam, plain), "")
        return (
            [entry for entry in entries if owner and entry.provider.matches(owner)]
            or [entry for entry in entries if entry.state in _RIVALS]
            or entries
        )

    def _with_conflict(self, entry: Entry) -> Entry:
        rivals = [rival for rival in self._rivals[entry.seam, entry.name] if rival.state in _RIVALS]
        if entry.state not in _RIVALS or len(rivals) == 1:
            return entry
        return replace(entry, state=State.CONFLICT, reason=_ambiguous(entry.seam, entry.name, rivals), needs=())


def accepted(factory: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Select the keyword arguments that `factory` names in its signature: a plugin that was written before an argument
    was added does not receive it."""
    try:
        named = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a callable written in C may have no signature
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: value for name, value in arguments.items() if name in named and named[name].kind in kinds}


_RIVALS = (State.OK, State.NEEDS)
"""States in which a plugin competes for its name; one that can never be used here does not."""


def _mark_copies(entries: Iterable[Entry]) -> list[Entry]:
    """Mark a built-in plugin that another distribution offers again, so that the copy does not compete with it.

    This happens when a module imports the hook functions of a built-in one.
    """
    marked = list(entries)
    own = {_identity(entry): entry.provider for entry in marked if entry.spec and entry.provider.distribution == OWN}
    for i, entry in enumerate(marked):
        owner = own.get(_identity(entry))
        if owner is not None and entry.provider.distribution != OWN:
            reason = f"is the {entry.seam} '{entry.name}' of {owner.label} once more"
            marked[i] = replace(entry, state=State.CONFLICT, reason=reason, needs=())
    return marked


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
    """Import the object that an import string of the entry's spec names."""
    if entry.spec is None:
        raise PluginError(f"{_title(entry)} is not available: {entry.status}: {entry.reason}")
    target: str = getattr(entry.spec, attribute)
    module, _, name = target.partition(":")
    file = entry.provider.path
    # A single file refers to itself by its own name, but is imported under a unique one.
    own = file is not None and module == file.stem
    try:
        return load(f"{entry.provider.module}:{name}" if own else target)
    except (Exception, SystemExit) as error:
        raise PluginError(f"{_title(entry)}: cannot load its {attribute} '{target}': {one_line(error)}") from error
