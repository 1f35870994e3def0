"""Find plugins: load each entry point of the group `hft`, or single file, on its own and collect its specs.

pluggy's own entry-point loader is not used: it stops at the first failed import, and of two distributions with the same
entry-point name it drops one silently.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hft_core.errors import PluginError
from hft_core.file_guard import open_regular
from hft_core.plugins.allowlist import OWN, Allowlist, normalized
from hft_core.plugins.entries import OBSERVER, Entry, Provider, ProviderPlugins, State, broken, one_line
from hft_core.plugins.registration import SEAM_OF_HOOK, register
from hft_core.plugins.requirements import missing
from hft_core.plugins.spec_validation import validated_copy
from hft_core.specs import SEAMS, SUPPORTED_API, Spec

SLOW = 0.25
"""Import time in seconds above which a provider gets a warning; a light module takes about a millisecond."""

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy", "pandas", "tensorflow", "jax")
"""Libraries that usually explain a slow import."""

Candidate = tuple[Provider, importlib.metadata.EntryPoint]


def installed(allowlist: Allowlist) -> Iterator[ProviderPlugins]:
    """Yield the plugins of each entry point: hft-core first, then by distribution and entry point.

    Distributions that are not admitted are not imported. Never raises because of a plugin.
    """
    points, unreadable = _entry_points()
    yield ProviderPlugins(entries=unreadable)
    for provider, point in sorted(_candidates(points), key=_order):
        refusal = allowlist.refusal(provider.distribution)
        if refusal:
            yield ProviderPlugins([Entry("", point.name, None, provider, State.BLOCKED, refusal)])
        else:
            yield _load(point, provider)


def _order(candidate: Candidate) -> tuple[bool, str, str]:
    distribution = normalized(candidate[0].distribution)
    return distribution != OWN, distribution, candidate[1].name


def _entry_points() -> tuple[list[importlib.metadata.EntryPoint], list[Entry]]:
    """Return the entry points, and a broken entry for each distribution whose entry_points.txt cannot be parsed."""
    try:
        return list(importlib.metadata.entry_points(group="hft")), []
    except Exception:  # one malformed entry_points.txt: query each distribution to find it
        points: list[importlib.metadata.EntryPoint] = []
        unreadable: list[Entry] = []
        seen: set[str] = set()
        for distribution in importlib.metadata.distributions():
            name, version = _name_and_version(distribution)
            if normalized(name) in seen:  # shadowed by an earlier folder of sys.path
                continue
            seen.add(normalized(name))
            try:
                points += distribution.entry_points.select(group="hft")
            except Exception as error:
                unreadable.append(broken(Provider(name, version), "entry_points.txt", "entry_points.txt", error))
        return points, unreadable


def _candidates(points: Iterable[importlib.metadata.EntryPoint]) -> Iterator[Candidate]:
    """Pair each entry point with its provider, reading each distribution's metadata once."""
    known: dict[int, tuple[str, str]] = {}
    for point in points:
        key = id(point.dist)
        if key not in known:
            known[key] = _name_and_version(point.dist) if point.dist is not None else ("unknown", "")
        yield Provider(*known[key], point.name), point


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    try:
        metadata = distribution.metadata
        return str(metadata["Name"] or "unknown"), str(metadata["Version"] or "")
    except Exception:  # a damaged METADATA file raises many types; the entry point is listed all the same
        return "unknown", ""


def _load(point: importlib.metadata.EntryPoint, provider: Provider) -> ProviderPlugins:
    modules_before = set(sys.modules)
    start = time.perf_counter()
    try:
        module = point.load()
    except (Exception, SystemExit) as error:
        seconds = time.perf_counter() - start
        plugins = ProviderPlugins([broken(provider, point.name, "import failed", error, seconds=seconds)])
    else:
        seconds = time.perf_counter() - start
        plugins = collect_specs(module, provider, seconds=seconds)
    if seconds >= SLOW:
        plugins.warn(_slow_import_warning(seconds, sys.modules.keys() - modules_before))
    plugins.entries = [_check_core_version(entry, point) for entry in plugins.entries]
    return plugins


def _slow_import_warning(seconds: float, imported: Iterable[str]) -> str:
    imported = set(imported)
    heavy = [name for name in HEAVY if name in imported]
    libraries = f" ({', '.join(heavy)})" if heavy else ""
    return f"slow: importing its entry module took {seconds:.1f} s{libraries}, which every hft command waits for"


def _check_core_version(entry: Entry, point: importlib.metadata.EntryPoint) -> Entry:
    """Mark a broken entry as incompatible when its distribution requires another version of hft-core."""
    if entry.state is not State.BROKEN or point.dist is None:
        return entry
    try:
        unmet = missing([text for text in point.dist.requires or () if normalized(text).startswith(OWN)])
    except Exception:  # malformed metadata: keep the import error as the reason
        return entry
    if not unmet:
        return entry
    problems = "; ".join(need.problem for need in unmet)
    return replace(entry, state=State.INCOMPATIBLE, reason=f"{problems} ({entry.reason})")


def collect_specs(plugin: object, provider: Provider, *, seconds: float = 0.0) -> ProviderPlugins:
    """Call the seam hooks of a plugin module or object one by one; turn each failure into a broken entry."""
    name = provider.entry_point or provider.distribution
    try:
        registration = register(plugin)
    except (Exception, SystemExit) as error:
        return ProviderPlugins([broken(provider, name, "its hooks are not valid", error, seconds=seconds)])
    plugins = ProviderPlugins()
    for problem in registration.problems:
        plugins.entries.append(Entry("", name, None, provider, State.BROKEN, problem, seconds=seconds))
    for hook in registration.implemented:
        for implementation in registration.implementations(hook) if hook in SEAM_OF_HOOK else ():
            plugins.entries += _call_hook(implementation.function, hook, provider, seconds)
    if registration.observes and not registration.problems:
        plugins.observers.append((Entry(OBSERVER, name, None, provider, seconds=seconds), plugin))
    plugins.warn(*registration.deprecated)
    return plugins


def _call_hook(function: Callable[[], object], hook: str, provider: Provider, seconds: float) -> list[Entry]:
    seam = SEAM_OF_HOOK[hook]
    entries: list[Entry] = []
    try:
        specs = function()
        if isinstance(specs, str | bytes | Spec) or not isinstance(specs, Iterable):
            kind = "nothing" if specs is None else type(specs).__name__
            raise TypeError(f"returned {kind}, expected a list of {SEAMS[seam].__name__}")
        for spec in specs:  # a generator may raise after some valid specs
            entries.append(_entry(spec, hook, provider, seconds))  # noqa: PERF401
    except (Exception, SystemExit) as error:
        name = provider.entry_point or provider.distribution
        entries.append(broken(provider, name, f"{hook} failed", error, seam=seam, seconds=seconds))
    return entries


def _entry(item: Any, hook: str, provider: Provider, seconds: float) -> Entry:
    """Return the entry of one item that a seam hook returned."""
    seam = SEAM_OF_HOOK[hook]
    kind = SEAMS[seam]
    name = provider.entry_point or provider.distribution
    if isinstance(item, Spec) and isinstance(item.name, str):
        name = item.name
    if not isinstance(item, kind):
        reason = f"{hook} returned a {type(item).__name__}, expected a {kind.__name__}"
        return Entry(seam, name, None, provider, State.BROKEN, reason, seconds=seconds)
    try:
        return _check_usable(Entry(seam, name, validated_copy(item, kind), provider, seconds=seconds))
    except Exception as error:
        return broken(provider, name, f"{hook} returned a spec that is not valid", error, seam=seam, seconds=seconds)


def _check_usable(entry: Entry) -> Entry:
    """Set the entry's state from its spec's API version and requirements. Raises `InvalidRequirement`."""
    spec = entry.spec
    assert spec is not None
    if spec.api not in SUPPORTED_API:
        reason = f"written for hook API {spec.api}, and this hft-core supports {supported_api()}"
        return replace(entry, state=State.INCOMPATIBLE, reason=reason)
    if spec.api != SUPPORTED_API[-1]:
        warning = f"written for hook API {spec.api}; the current one is {SUPPORTED_API[-1]}"
        entry = replace(entry, warnings=(warning,))
    unmet = missing(spec.requires)
    if not unmet:
        return entry
    packages = " ".join(f"'{need.requirement}'" for need in unmet)
    reason = f"{'; '.join(need.problem for need in unmet)}; run: pip install {packages}"
    return replace(entry, state=State.NEEDS, reason=reason, needs=tuple(dict.fromkeys(need.name for need in unmet)))


def supported_api() -> str:
    """Return the supported hook API versions in words: `1`, or `1 to 2`."""
    first, last = SUPPORTED_API[0], SUPPORTED_API[-1]
    return str(first) if first == last else f"{first} to {last}"


def file_plugin(path: str | Path) -> ProviderPlugins:
    """Return the plugins of one `.py` file.

    Raises `PluginError` when the file is missing or any of its plugins is broken.
    """
    file = Path(path)
    if file.suffix != ".py":
        raise PluginError(f"plugin file '{path}': expected a .py file")
    try:
        with open_regular(file) as opened:
            source = opened.read()
    except OSError as error:
        raise PluginError(f"plugin file '{path}': cannot be read: {error.strerror or error}") from error
    import hashlib  # not needed to list installed plugins

    digest = hashlib.sha256(source).hexdigest()
    resolved = file.resolve()
    module = f"hft_file_{hashlib.sha256(str(resolved).encode(errors='surrogateescape')).hexdigest()[:8]}_{digest[:8]}"
    from hft_core.plugins.file_imports import digest_with_imports

    whole = digest_with_imports(source, resolved)
    provider = Provider(str(path), path=resolved, sha256=whole, module=module)
    plugins = collect_specs(_import_file(resolved, source, module, path), provider)
    for entry in plugins.entries:
        if entry.state is State.BROKEN:
            raise PluginError(f"plugin file '{path}': {entry.reason}")
    return plugins


def _import_file(file: Path, source: bytes, name: str, path: str | Path) -> ModuleType:
    """Import `source` as module `name`, unless the same content was imported before."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(source, str(file), "exec"), module.__dict__)  # the bytes that were hashed, and no stale .pyc
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise PluginError(f"plugin file '{path}': import failed: {one_line(error)}") from error
        raise
    return module
