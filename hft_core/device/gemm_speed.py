"""Measure how fast this machine multiplies matrices (GEMM) in each number format, and cache the result.

Other load can only slow a product down, so the best measurement of the first few runs counts. It is measured again when
it is old, or the processor, the number of threads or the version of torch has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hft_core.errors import RunError
from hft_core.runtime import cache
from hft_core.runtime.files import read_json, write_text

FILE = "precision.json"
"""In `hft_core.runtime.cache.folder`."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Number formats by their names in recipes. Not float16: its gradients underflow without loss scaling."""
CPU_SIZE, GPU_SIZE = 512, 4096
"""Side of the square matrices; larger ones are no faster on two cores, smaller ones do not fill a GPU."""
ROUNDS, PRODUCTS = 6, 6
"""Each format is measured in so many rounds of so many products, alternating with the others; the best counts."""
HOPELESS, TRIES = 10, 2
"""A format that is slower by this factor after so many products is measured no further."""
MEASUREMENTS = 3
"""So many runs measure; the best of them is kept."""
DAYS = 30
"""Older results are dropped."""


@dataclass(frozen=True)
class Throughput:
    """GEMM throughput by number format."""

    gflops: Mapping[str, float]
    """10⁹ operations a second, by format."""
    measurements: int
    """Runs that measured, including this one."""
    since: float
    """When the first of them did, in seconds since 1970."""
    measured_now: bool

    @property
    def origin(self) -> str:
        """Where the numbers come from, for messages."""
        if self.measured_now:
            return "measured now" if self.measurements == 1 else f"the best of {self.measurements} runs, this one too"
        day = time.strftime("%Y-%m-%d", time.localtime(self.since))
        return f"remembered from {self.measurements} runs since {day}"


def throughput(device: torch.device) -> Throughput:
    """Return the throughput of `device`: cached, or measured while fewer than `MEASUREMENTS` runs have done so."""
    path, key = _path(), _key(device)
    before = _parse(key, _read(path).get(key))
    if before is not None and before.measurements >= MEASUREMENTS:
        return before
    measured = dict(zip(DTYPES, measure(list(DTYPES.values()), device), strict=True))
    if before is None:
        result = Throughput(measured, 1, time.time(), measured_now=True)
    else:
        best = {name: max(rate, before.gflops[name]) for name, rate in measured.items()}
        result = Throughput(best, before.measurements + 1, before.since, measured_now=True)
    _write(path, key, result)
    return result


def measure(dtypes: Sequence[torch.dtype], device: torch.device) -> list[float]:
    """Measure square products in each of `dtypes`, the best of each in 10⁹ operations a second. Keeps the global random
    state."""
    size = CPU_SIZE if device.type == "cpu" else GPU_SIZE
    generator = torch.Generator(device).manual_seed(0)
    pairs = [
        [torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)] for dtype in dtypes
    ]
    best = [min(_seconds(pair, device) for _ in range(TRIES)) for pair in pairs]
    for _ in range(ROUNDS):
        for i, pair in enumerate(pairs):
            if best[i] < HOPELESS * min(best):
                best[i] = min(best[i], *(_seconds(pair, device) for _ in range(PRODUCTS)))
    return [2 * size**3 / seconds / 1e9 for seconds in best]


def _seconds(pair: Sequence[torch.Tensor], device: torch.device) -> float:
    left, right = pair
    start = time.perf_counter()
    left @ right
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _key(device: torch.device) -> str:
    """Name what the throughput depends on."""
    build = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {build}"
    return f"{_processor()}, {torch.get_num_threads()} threads, {build}"


def _processor() -> str:
    """Name the processor, on Linux with a hash of its features, some of which a virtual machine may hide."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        fields: dict[str, str] = {}
        for name, _, value in (line.partition(":") for line in lines):
            fields.setdefault(name.strip(), value.strip())
        features = fields.get("flags", fields.get("Features", ""))
        digest = hashlib.sha256(features.encode()).hexdigest()[:8]
        return f"{fields.get('model name', platform.machine())} ({digest})"
    return platform.processor() or platform.machine()


def _path() -> Path | None:
    """Return the file of the measurements; None where there is no cache folder."""
    folder = cache.folder()
    return None if folder is None else folder / FILE


def _read(path: Path | None) -> dict[str, Any]:
    """Read the cached values; empty if the file cannot be read or is corrupt."""
    try:
        content = {} if path is None else read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _parse(key: str, cached: Any) -> Throughput | None:
    """Parse a cached value; None if it is not as it was written, or too old."""
    try:
        value = {name: cached[name] for name in ("gflops", "measurements", "since")}
        if cached["sha256"] != _digest(key, value):
            return None
        gflops = {name: float(value["gflops"][name]) for name in DTYPES}
        result = Throughput(gflops, int(value["measurements"]), float(value["since"]), measured_now=False)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    fresh = 0 <= time.time() - result.since < DAYS * 86_400
    sound = all(math.isfinite(rate) and rate > 0 for rate in gflops.values())
    return result if fresh and sound and 1 <= result.measurements <= MEASUREMENTS else None


def _digest(key: str, value: Mapping[str, Any]) -> str:
    """Hash a value with its key: a changed digit would decide the number format of all later runs."""
    return hashlib.sha256(json.dumps([key, value], sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path | None, key: str, result: Throughput) -> None:
    """Write the value beside those of other machines that share the folder, atomically."""
    if path is None:
        return
    value: dict[str, Any] = {
        "gflops": dict(result.gflops),
        "measurements": result.measurements,
        "since": result.since,
    }
    value["sha256"] = _digest(key, value)
    with suppress(OSError, RunError):  # a folder that cannot be written to: the next run measures again
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(path, json.dumps({**_read(path), key: value}, indent=1) + "\n")
