"""Find what of this machine and installation would hinder a run; light (imports no torch).

A check is a function that yields findings, and an entry of `CHECKS`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from hft_core.device.free_memory import available_memory
from hft_core.errors import UsageError
from hft_core.plugins.allowlist import OWN
from hft_core.plugins.catalogue import Catalogue, State
from hft_core.plugins.requirements import missing
from hft_core.runtime import cache

GB = 10**9
LITTLE_DISK, SOME_DISK = 1 * GB, 10 * GB
"""Free bytes below which a run cannot be expected to write its weights, and those of a model of some size."""
LITTLE_MEMORY, SOME_MEMORY = 1 * GB, 4 * GB
"""Available bytes below which a small encoder cannot be trained, and a larger one cannot."""
PATIENCE = 2.0
"""Seconds that the hub has to accept a connection."""
OF_DEVELOPERS = frozenset({"dev", "test", "all"})
"""Extras that add nothing to what hft does."""


class Verdict(StrEnum):
    """What a finding means for a run."""

    OK = "ok"
    WARNING = "warning"
    """Some runs are hindered, or slower."""
    ERROR = "error"
    """Runs fail."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    what: str
    verdict: Verdict
    message: str
    fix: str = ""
    """The command or setting that fixes it."""


Check = Callable[[Catalogue], Iterator[Finding]]


def examine(catalogue: Catalogue) -> list[Finding]:
    """Run all checks."""
    return [finding for check in CHECKS for finding in check(catalogue)]


def interpreter(_: Catalogue) -> Iterator[Finding]:
    """Check how Python was started."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.flags.optimize > 1:
        yield Finding(
            "python", Verdict.ERROR, "runs without docstrings, which transformers needs", "unset PYTHONOPTIMIZE"
        )
    else:
        yield Finding("python", Verdict.OK, version)


def packages(_: Catalogue) -> Iterator[Finding]:
    """Compare the installed packages with the bounds that hft-core declares."""
    try:
        declared = metadata.requires(OWN) or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", Verdict.ERROR, f"{OWN} is not installed, only on the path", "pip install -e .")
        return
    unmet = missing(text for text in declared if "extra ==" not in text)
    for need in unmet:
        yield Finding(
            "packages", Verdict.ERROR, need.problem, f"pip install '{need.requirement.partition(';')[0].strip()}'"
        )
    if not unmet:
        yield Finding("packages", Verdict.OK, f"the {len(declared)} requirements of {OWN} that apply are met")


def extras(_: Catalogue) -> Iterator[Finding]:
    """Name the extras whose packages are missing."""
    try:
        names = metadata.metadata(OWN).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return
    for name in sorted({*names} - OF_DEVELOPERS):
        unmet = missing([f"{OWN}[{name}]"])
        if unmet:
            problems = ", ".join(need.problem for need in unmet)
            yield Finding("extras", Verdict.WARNING, f"{name}: {problems}", f"pip install '{OWN}[{name}]'")


def accelerator(_: Catalogue) -> Iterator[Finding]:
    """Compare the machine's GPU with the build of torch, without importing it."""
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return  # `packages` says so
    gpu = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()
    with_cuda = "+cpu" not in version and any(_installed("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"))
    if gpu and not with_cuda and "+cu" not in version:
        yield Finding(
            "gpu", Verdict.ERROR, f"there is an NVIDIA GPU, and torch {version} has no CUDA", "pip install torch"
        )
    elif sys.platform == "linux" and not gpu:
        yield Finding(
            "gpu", Verdict.WARNING, f"none: torch {version} trains on the processor, which suits small models"
        )
    else:
        yield Finding("gpu", Verdict.OK, f"torch {version}")


def _installed(*names: str) -> Iterator[bool]:
    for name in names:
        try:
            yield bool(metadata.version(name))
        except metadata.PackageNotFoundError:
            yield False


def processors(_: Catalogue) -> Iterator[Finding]:
    """Compare the number of threads with the processors that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > usable:
        message = f"OMP_NUM_THREADS is {wanted}, but this process may use {usable} processors"
        yield Finding("processors", Verdict.WARNING, message, f"export OMP_NUM_THREADS={usable}")
    else:
        yield Finding("processors", Verdict.OK, str(usable))


def memory(_: Catalogue) -> Iterator[Finding]:
    """Compare the available memory with what training needs."""
    free = available_memory()
    if free is None:
        return
    message = f"{free / GB:.1f} GB available"
    if free < LITTLE_MEMORY:
        yield Finding("memory", Verdict.ERROR, f"{message}: too little to train a small encoder", "end other programs")
    elif free < SOME_MEMORY:
        fix = "hft run RECIPE --set stages.0.strategy=lora --set stages.0.max_rows_per_batch=4"
        yield Finding("memory", Verdict.WARNING, f"{message}: enough for small models", fix)
    else:
        yield Finding("memory", Verdict.OK, message)


def disk(_: Catalogue) -> Iterator[Finding]:
    """Check that runs can be written to the working folder, and temporary files to theirs."""
    for what, place in (("working folder", Path.cwd()), ("temporary files", Path(tempfile.gettempdir()))):
        if problem := not_writable(place):
            fix = "cd to a folder of yours, or give --out" if what == "working folder" else "export TMPDIR=…"
            yield Finding("disk", Verdict.ERROR, f"{what}: {place}: {problem}", fix)
            continue
        free = shutil.disk_usage(place).free
        message = f"{what}: {free / GB:.1f} GB free at {place}"
        if free < LITTLE_DISK:
            yield Finding("disk", Verdict.ERROR, message, "hft cache clear")
        else:
            yield Finding("disk", Verdict.WARNING if free < SOME_DISK else Verdict.OK, message)


def caches(_: Catalogue) -> Iterator[Finding]:
    """Check hft's cache: its folder, its limit and its size."""
    place = cache.folder()
    try:
        limit = cache.limit()
    except UsageError as error:
        yield Finding("cache", Verdict.ERROR, str(error), f"export {cache.SIZE}=20GB")
        return
    if place is None:
        message = "there is no home folder, so that nothing is cached"
        yield Finding("cache", Verdict.WARNING, message, f"export {cache.PLACE}=/a/folder")
        return
    if problem := not_writable(place):
        message = f"{place}: {problem}: nothing is cached"
        yield Finding("cache", Verdict.WARNING, message, f"export {cache.PLACE}=/a/folder")
        return
    size = sum(entry.size for entry in cache.entries(place))
    message = f"{size / GB:.1f} of at most {limit / GB:.1f} GB at {place}"
    free = shutil.disk_usage(_existing(place)).free
    if limit - size > free:
        message += f", where only {free / GB:.1f} GB are free"
        yield Finding("cache", Verdict.WARNING, message, f"export {cache.SIZE}={max(1, (size + free) // (2 * GB))}GB")
    else:
        yield Finding("cache", Verdict.OK, message)


def hub(_: Catalogue) -> Iterator[Finding]:
    """Check whether models can be downloaded, or must be in the cache of the hub."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE)
    cached = sum(path.name.startswith("models--") for path in place.iterdir()) if place.is_dir() else 0
    has = f"{cached} models are cached at {place}"
    if problem := not_writable(place):
        yield Finding(
            "hub", Verdict.WARNING, f"{place}: {problem}: no model can be downloaded", "export HF_HOME=/a/folder"
        )
    if constants.HF_HUB_OFFLINE:
        message = f"HF_HUB_OFFLINE is set: nothing is downloaded; {has}"
        yield Finding("hub", Verdict.WARNING, message, "unset HF_HUB_OFFLINE")
        return
    address = urlsplit(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        message = f"{address.hostname} cannot be reached ({error}); {has}"
        fix = "export HF_HUB_OFFLINE=1 (local models only), or HF_ENDPOINT or HTTPS_PROXY of your network"
        yield Finding("hub", Verdict.WARNING, message, fix)
    else:
        yield Finding("hub", Verdict.OK, f"{address.hostname} answers; {has}")


def plugins(catalogue: Catalogue) -> Iterator[Finding]:
    """List plugins that cannot be used."""
    usable = sum(entry.state is State.OK for entry in catalogue.entries)
    yield Finding(
        "plugins",
        Verdict.OK if usable else Verdict.ERROR,
        f"{usable} can be used",
        "" if usable else "pip install -e .",
    )
    for entry in catalogue.entries:
        name = f"{entry.seam or 'plugin'} '{entry.name}' of {entry.provider.label}: {entry.status}"
        provider = entry.provider.distribution
        if entry.state in (State.OK, State.BLOCKED):
            continue
        if entry.state is State.NEEDS:
            if provider != OWN:  # for those of hft-core, `extras` reports it
                yield Finding(
                    "plugins", Verdict.WARNING, f"{name}: {entry.reason}", f"pip install {' '.join(entry.needs)}"
                )
        elif entry.state is State.CONFLICT:
            yield Finding(
                "plugins", Verdict.WARNING, f"{name}: {entry.reason}", f"write {provider}:{entry.name} in recipes"
            )
        else:
            fix = f"pip uninstall {provider}, or export HFT_BLOCK={provider}"
            yield Finding("plugins", Verdict.ERROR, f"{name}: {entry.reason}", fix)


def not_writable(place: Path) -> str:
    """Return why files cannot be made in a folder, which need not exist yet; empty if they can."""
    existing = _existing(place)
    if not existing.is_dir():
        return f"{existing} is no folder"
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return error.strerror or "cannot be written to"


def _existing(place: Path) -> Path:
    return next(path for path in (place, *place.absolute().parents) if os.path.lexists(path))


CHECKS: tuple[Check, ...] = (interpreter, packages, plugins, extras, accelerator, processors, memory, disk, caches, hub)
"""In the order in which they are told."""
