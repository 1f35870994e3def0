"""Finding plugins: every entry point of the group `hft`, and single files, each loaded and questioned alone.

Light (pluggy, packaging and the standard library). pluggy's own entry-point loader is not used: there, one bad import
ends the listing for all, and of two distributions with the same entry-point name one vanishes silently.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from hft_core.errors import PluginError
from hft_core.plugins.allowlist import OWN, Admission, normalised
from hft_core.plugins.registration import SEAM_OF_HOOK, register
from hft_core.plugins.requirements import missing
from hft_core.plugins.spec_validation import LONGEST, taken
from hft_core.specs import SEAMS, SUPPORTED_API, Spec

SLOW = 0.25
"""Seconds from which on importing a provider's module is told of; a light module takes about a millisecond."""

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "pandas", "tensorflow", "jax")
"""Libraries that a slow module has usually imported."""

OBSERVER = "observer"
"""In the place of a seam, for a module that implements lifecycle hooks."""

MOST = 1000
"""Specs that are taken from one hook; a generator may never end."""


class State(StrEnum):
    """Whether a listed plugin can be used, and if not, why."""

    OK = "ok"
    BROKEN = "broken"
    NEEDS = "needs"
    CONFLICT = "conflict"
    BLOCKED = "blocked"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True)
class Provider:
    """Who brought a plugin: an installed distribution, a file given for one run, or a module given by the host."""

    distribution: str
    """The distribution's name; the file's path for a single file; the module's name for a module."""
    version: str = ""
    entry_point: str = ""
    path: Path | None = None
    """The single file, when it is one."""
    sha256: str = ""
    """Of the single file."""
    module: str = ""
    """The name under which the single file was imported."""

    @property
    def label(self) -> str:
        """The provider in messages: `hft-galore 0.1`."""
        return f"{self.distribution} {self.version}".strip()

    def answers_to(self, name: str) -> bool:
        """Whether `name:plugin` means this provider."""
        if self.path is not None:
            return name in (self.distribution, self.path.name, self.path.stem)
        return normalised(name) == normalised(self.distribution)


@dataclass(frozen=True)
class Entry:
    """One line of the plugin list."""

    seam: str
    """Empty when the provider could not be asked what it has (it is blocked or failed to import)."""
    name: str
    """The plugin's name; the entry point's where the plugin's is not known."""
    spec: Spec | None
    """None when broken or blocked."""
    provider: Provider
    state: State = State.OK
    reason: str = ""
    """One line; empty when ok."""
    needs: tuple[str, ...] = ()
    """Names of the distributions that are missing or too old."""
    traceback: str = ""
    seconds: float = 0.0
    """What importing the provider's module took."""
    warnings: tuple[str, ...] = ()
    """What its author should change, although the plugin can be used: each one line."""

    @property
    def status(self) -> str:
        """The state as it is listed: `ok`, `needs cvxpy`, …"""
        return " ".join([self.state, *self.needs])


Offer = tuple[Provider, importlib.metadata.EntryPoint]


@dataclass
class Found:
    """What one provider turned out to hold."""

    entries: list[Entry] = field(default_factory=list)
    observers: list[tuple[Entry, object]] = field(default_factory=list)
    """The module, when it implements lifecycle hooks, under an entry of the seam `observer`, which no recipe names."""

    def warn(self, *told: str) -> None:
        """Add to the warnings of everything that was found."""
        self.entries = [replace(entry, warnings=(*entry.warnings, *told)) for entry in self.entries]
        self.observers = [(replace(e, warnings=(*e.warnings, *told)), module) for e, module in self.observers]


def installed(admission: Admission) -> Iterator[Found]:
    """What each entry point of the environment holds: those of hft-core first, then by distribution and entry point.

    Nothing of a distribution that is not admitted is imported. Never raises because of a plugin.
    """
    points, unreadable = _entry_points()
    yield Found(entries=unreadable)
    for provider, point in sorted(_offers(points), key=_order):
        refusal = admission.refusal(provider.distribution)
        if refusal:
            yield Found([Entry("", point.name, None, provider, State.BLOCKED, refusal)])
        else:
            yield _load(point, provider)


def _order(offer: Offer) -> tuple[bool, str, str]:
    distribution = normalised(offer[0].distribution)
    return distribution != OWN, distribution, offer[1].name


def _entry_points() -> tuple[list[importlib.metadata.EntryPoint], list[Entry]]:
    """The environment's entry points, and a broken entry for each distribution whose list of them cannot be read."""
    try:
        return list(importlib.metadata.entry_points(group="hft")), []
    except Exception:  # one malformed entry_points.txt: ask the distributions one by one to find out whose it is
        points: list[importlib.metadata.EntryPoint] = []
        unreadable: list[Entry] = []
        seen: set[str] = set()
        for distribution in importlib.metadata.distributions():
            name, version = _identity(distribution)
            if normalised(name) in seen:  # shadowed by an earlier folder of sys.path
                continue
            seen.add(normalised(name))
            try:
                points += distribution.entry_points.select(group="hft")
            except Exception as error:
                unreadable.append(_broken(Provider(name, version), "entry_points.txt", "entry_points.txt", error))
        return points, unreadable


def _offers(points: Iterable[importlib.metadata.EntryPoint]) -> Iterator[Offer]:
    """Each entry point with its provider; the metadata of each distribution are read once."""
    known: dict[int, tuple[str, str]] = {}
    for point in points:
        key = id(point.dist)
        if key not in known:
            known[key] = _identity(point.dist) if point.dist is not None else ("unknown", "")
        yield Provider(*known[key], point.name), point


def _identity(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version; a damaged METADATA file yields `unknown`."""
    try:
        metadata = distribution.metadata
        return str(metadata["Name"] or "unknown"), str(metadata["Version"] or "")
    except Exception:  # reading metadata fails in many ways; the listing still has to name the entry point
        return "unknown", ""


def _load(point: importlib.metadata.EntryPoint, provider: Provider) -> Found:
    before = set(sys.modules)
    start = time.perf_counter()
    try:
        module = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may end in anything, SystemExit included
        seconds = time.perf_counter() - start
        found = Found([_broken(provider, point.name, "import failed", error, seconds=seconds)])
    else:
        seconds = time.perf_counter() - start
        found = question(module, provider, seconds=seconds)
    if seconds >= SLOW:
        found.warn(_slowness(seconds, sys.modules.keys() - before))
    if any(entry.state is State.BROKEN for entry in found.entries):
        found.entries = [_of_another_core(entry, point) for entry in found.entries]
    return found


def _slowness(seconds: float, imported: Iterable[str]) -> str:
    heavy = [name for name in HEAVY if name in set(imported)]
    what = f" ({', '.join(heavy)})" if heavy else ""
    return f"slow: importing its entry module took {seconds:.1f} s{what}, which every hft command waits for"


def _of_another_core(entry: Entry, point: importlib.metadata.EntryPoint) -> Entry:
    """A broken entry, called incompatible where its distribution asks for another hft-core than the one installed."""
    if entry.state is not State.BROKEN or point.dist is None:
        return entry
    try:
        asked = [text for text in point.dist.requires or () if normalised(text).startswith(OWN)]
        lacking = [need.problem for need in missing(asked)]
    except Exception:  # malformed metadata: what the module itself did stays the reason
        return entry
    if not lacking:
        return entry
    return replace(entry, state=State.INCOMPATIBLE, reason=f"{'; '.join(lacking)} ({entry.reason})")


def question(plugin: object, provider: Provider, *, seconds: float = 0.0) -> Found:
    """Call the seam hooks of `plugin`, one by one; whatever fails becomes an entry with its reason."""
    name = provider.entry_point or provider.distribution
    try:
        registration = register(plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # hook signatures, and attributes that raise when they are looked at
        return Found([_broken(provider, name, "its hooks are not valid", error, seconds=seconds)])
    found = Found()
    for problem in registration.problems:
        found.entries.append(Entry("", name, None, provider, State.BROKEN, problem, seconds=seconds))
    for hook in registration.implemented:
        for implementation in registration.implementations(hook) if hook in SEAM_OF_HOOK else ():
            found.entries += _ask(implementation.function, hook, provider, seconds)
    if registration.observes and not registration.problems:
        found.observers.append((Entry(OBSERVER, name, None, provider, seconds=seconds), plugin))
    found.warn(*registration.deprecated)
    return found


def _ask(function: Callable[[], object], hook: str, provider: Provider, seconds: float) -> list[Entry]:
    seam = SEAM_OF_HOOK[hook]
    name = provider.entry_point or provider.distribution
    wanted = SEAMS[seam].__name__
    entries: list[Entry] = []
    try:
        result = function()
        if isinstance(result, str | bytes | Spec) or not isinstance(result, Iterable):
            what = "nothing" if result is None else type(result).__name__
            raise TypeError(f"returned {what}, expected a list of {wanted}")
        for item in islice(result, MOST):  # a generator may raise after some good items
            entries.append(_entry(item, hook, provider, seconds))  # noqa: PERF401
        if len(entries) == MOST:
            entries.clear()
            raise ValueError(f"returned {MOST} specs or more")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        entries.append(_broken(provider, name, f"{hook} failed", error, seam=seam, seconds=seconds))
    return entries


def _entry(item: Any, hook: str, provider: Provider, seconds: float) -> Entry:
    """The entry of one item that a seam hook returned."""
    seam = SEAM_OF_HOOK[hook]
    name = provider.entry_point or provider.distribution
    try:
        if isinstance(item, Spec) and type(item.name) is str:
            name = item.name[:64]
        if not isinstance(item, SEAMS[seam]):
            reason = f"{hook} returned a {type(item).__name__}, expected a {SEAMS[seam].__name__}"
            return Entry(seam, name, None, provider, State.BROKEN, reason, seconds=seconds)
        return _judged(Entry(seam, name, taken(item, SEAMS[seam]), provider, seconds=seconds))
    except Exception as error:  # a stranger's object raises what it likes when it is looked at
        return _broken(provider, name, f"{hook} returned a spec that is not valid", error, seam=seam, seconds=seconds)


def _judged(entry: Entry) -> Entry:
    """The entry of a sound spec with its state: whether it can be used here. Raises `InvalidRequirement`."""
    spec = entry.spec
    assert spec is not None, "a sound spec was given"
    if type(spec.api) is not int or spec.api not in SUPPORTED_API:
        reason = f"written for hook API {spec.api}, and this hft-core supports {supported_api()}"
        return replace(entry, state=State.INCOMPATIBLE, reason=reason)
    if spec.api != SUPPORTED_API[-1]:
        told = f"written for hook API {spec.api}; the current one is {SUPPORTED_API[-1]}"
        entry = replace(entry, warnings=(told,))
    lacking = missing(spec.requires)
    if not lacking:
        return entry
    wanted = " ".join(f"'{need.requirement}'" for need in lacking)
    reason = f"{'; '.join(need.problem for need in lacking)}; run: pip install {wanted}"
    return replace(entry, state=State.NEEDS, reason=reason, needs=tuple(dict.fromkeys(need.name for need in lacking)))


def supported_api() -> str:
    """The hook API versions of this core in words: `1`, or `1 to 2`."""
    first, last = SUPPORTED_API[0], SUPPORTED_API[-1]
    return str(first) if first == last else f"{first} to {last}"


def file_plugin(path: str | Path) -> Found:
    """What one `.py` file holds.

    Raises `PluginError` when the file is missing or broken in any way: it was asked for by name.
    """
    file = Path(path)
    if file.suffix != ".py":
        raise PluginError(f"plugin file '{path}': expected a .py file")
    try:
        source = file.read_bytes()
    except OSError as error:
        raise PluginError(f"plugin file '{path}': cannot be read: {error.strerror or error}") from error
    import hashlib  # here, since listing installed plugins needs none

    digest = hashlib.sha256(source).hexdigest()
    resolved = file.resolve()
    module = f"hft_file_{hashlib.sha256(str(resolved).encode(errors='surrogateescape')).hexdigest()[:8]}_{digest[:8]}"
    provider = Provider(str(path), path=resolved, sha256=digest, module=module)
    found = question(_import_file(resolved, source, module, shown=str(path)), provider)
    for entry in found.entries:
        if entry.state is State.BROKEN:
            raise PluginError(f"plugin file '{path}': {entry.reason}")
    return found


def _import_file(file: Path, source: bytes, name: str, shown: str) -> ModuleType:
    """The module made of `source`; a file already imported with the same content is not executed again."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # The very bytes that were hashed are executed, not what the file may hold a moment later.
        exec(compile(source, str(file), "exec"), module.__dict__)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        raise PluginError(f"plugin file '{shown}': import failed: {one_line(error)}") from error
    return module


def one_line(error: BaseException) -> str:
    """An exception's type and message on one line."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # an exception whose own __str__ raises
        message = "(its message cannot be shown)"
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]} …"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _broken(
    provider: Provider, name: str, step: str, error: BaseException, *, seam: str = "", seconds: float = 0.0
) -> Entry:
    text = "".join(traceback.format_exception(error))
    return Entry(seam, name, None, provider, State.BROKEN, f"{step}: {one_line(error)}", (), text, seconds)
