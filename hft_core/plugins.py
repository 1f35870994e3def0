"""The catalogue of plugins: what is there, in which state, and how one is picked by name.

Light (pluggy, packaging and the standard library): a plugin's implementation is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.discovery import Entry, Found, Provider, State, file_plugin, installed, one_line, question
from hft_core.errors import PluginError, did_you_mean
from hft_core.specs import SEAMS, load

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["BLOCK_VARIABLE", "Catalogue", "Entry", "Provider", "State", "block_list"]

BLOCK_VARIABLE = "HFT_BLOCK"
"""Environment variable that names distributions, divided by commas, whose plugins are not to be loaded."""


class Catalogue:
    """The plugins that one host can use. It never changes after it was made."""

    def __init__(self, found: Iterable[Found]) -> None:
        parts = list(found)
        self._raw = tuple(entry for part in parts for entry in part.entries)
        self.entries: tuple[Entry, ...] = tuple(sorted(map(self._with_conflict, self._raw), key=_order))
        """All plugins, usable or not, by seam and name; those of unknown seam last."""
        self.observers: tuple[tuple[str, object], ...] = tuple(item for part in parts for item in part.observers)
        """Label and module of each provider that implements lifecycle hooks, in calling order."""

    @classmethod
    def discover(cls, block: Iterable[str] = (), inline: Iterable[str | Path] = ()) -> Catalogue:
        """The plugins of the environment and of the files `inline`, without those of the distributions `block` and of
        the environment variable `HFT_BLOCK`.

        Raises `PluginError` for a file that cannot be used; a faulty installed plugin is listed with its state.
        """
        blocked = [*block, *block_list(os.environ.get(BLOCK_VARIABLE, ""))]
        files = {Path(path).resolve(): path for path in inline}
        return cls([*installed(blocked), *(file_plugin(path) for path in files.values())])

    @classmethod
    def of(cls, *modules: object) -> Catalogue:
        """The plugins of the given modules only, whatever is installed: for tests and closed hosts."""
        return cls(question(m, Provider(getattr(m, "__name__", type(m).__name__))) for m in modules)

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
        entries = [entry for entry in self._raw if entry.seam == seam and entry.name == plain]
        if owner:
            entries = [entry for entry in entries if entry.provider.answers_to(owner)]
        if not entries:
            raise PluginError(self._unknown(seam, name))
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

    def _with_conflict(self, entry: Entry) -> Entry:
        if entry.spec is None:
            return entry
        rivals = [e for e in self._raw if e.spec is not None and (e.seam, e.name) == (entry.seam, entry.name)]
        if len(rivals) == 1:
            return entry
        return replace(entry, state=State.CONFLICT, reason=_ambiguous(entry.seam, entry.name, rivals), needs=())

    def _unknown(self, seam: str, name: str) -> str:
        if not self.entries:
            return f"unknown {seam} '{name}': no plugins are installed; run 'pip install -e .'"
        plain = name.rpartition(":")[2]
        named = [entry for entry in self.entries if entry.spec is not None]
        message = f"unknown {seam} '{name}'.{did_you_mean(plain, (e.name for e in named if e.seam == seam))}"
        owners = sorted({e.provider.label for e in named if e.seam == seam and e.name == plain})
        if owners:
            message += f" '{plain}' is provided by {' and '.join(owners)}."
        elsewhere = sorted({e.seam for e in named if e.name == plain and e.seam != seam})
        if elsewhere:
            message += f" There is a {' and a '.join(elsewhere)} of that name."
        return message + self.not_loaded()

    def not_loaded(self) -> str:
        """A sentence for each provider that could not be asked what it has: it may be the one that is looked for."""
        silent = [entry for entry in self.entries if not entry.seam]
        return "".join(f" Not loaded: {e.provider.label} ({e.name}): {e.reason}." for e in silent)


def block_list(text: str) -> list[str]:
    """The distribution names of a list divided by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


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
    return f"{seam} '{name}' is provided by {' and by '.join(labels)}; write {' or '.join(choices)}"


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
