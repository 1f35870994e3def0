"""How fast this machine multiplies matrices, by number format: measured, and remembered for the runs to come.

Whatever else a machine does can only slow a product down, and a busy one can hide a format's speed altogether. So the
best that was seen counts, over the first few runs; what is remembered is measured anew when it is old, and when the
processor, the number of threads or torch is another one.
"""

from __future__ import annotations

import hashlib
import json
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
from hft_core.runtime.files import write_text

FILE = "precision.json"
"""In the folder of caches (`hft_core.runtime.cache.folder`)."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The formats by their names in recipes. Not float16: its gradients vanish without loss scaling."""
CPU_SIZE, GPU_SIZE = 512, 4096
"""Side of the measured square products; larger ones are no faster on two cores, smaller ones leave a GPU waiting."""
ROUNDS, PRODUCTS = 6, 6
"""Each format is measured in so many rounds of so many products, in turn with the others; the best product counts."""
HOPELESS, TRIES = 10, 2
"""A format that is slower by this factor after so many products is not measured any further."""
MEASUREMENTS = 3
"""So many runs measure, and the best of all is kept."""
DAYS = 30
"""What is older is forgotten."""


@dataclass(frozen=True)
class Rates:
    """Products of each format in 10⁹ operations a second."""

    gflops: Mapping[str, float]
    measurements: int
    """Runs that measured, this one included."""
    since: float
    """When the first of them did, in seconds since 1970."""
    measured_now: bool

    @property
    def told(self) -> str:
        """Where the numbers come from, in words."""
        if self.measured_now:
            return "measured now" if self.measurements == 1 else f"the best of {self.measurements} runs, this one too"
        day = time.strftime("%Y-%m-%d", time.localtime(self.since))
        return f"remembered from {self.measurements} runs since {day}"


def of_machine(device: torch.device) -> Rates:
    """The rates of `device`, from what earlier runs saw and, while these are few, from a measurement."""
    place, key = cache.folder() / FILE, _key(device)
    known = _read(place).get(key)
    before = _sound(known)
    if before is not None and before.measurements >= MEASUREMENTS:
        return before
    found = dict(zip(DTYPES, measure(list(DTYPES.values()), device), strict=True))
    if before is None:
        rates = Rates(found, 1, time.time(), measured_now=True)
    else:
        best = {name: max(rate, before.gflops[name]) for name, rate in found.items()}
        rates = Rates(best, before.measurements + 1, before.since, measured_now=True)
    _remember(place, key, rates)
    return rates


def measure(dtypes: Sequence[torch.dtype], device: torch.device) -> list[float]:
    """The best rate of square products in each of `dtypes`, in 10⁹ operations a second. The run's own random numbers
    do not depend on it."""
    size = CPU_SIZE if device.type == "cpu" else GPU_SIZE
    own = torch.Generator(device).manual_seed(0)
    pairs = [[torch.randn(size, size, device=device, generator=own).to(dtype) for _ in range(2)] for dtype in dtypes]
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
    """What the rates depend on."""
    build = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {build}"
    return f"{_processor()}, {torch.get_num_threads()} threads, {build}"


def _processor() -> str:
    """The processor's name with a hash of its features, which a virtual machine may hide; of Linux, else its kind."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        facts: dict[str, str] = {}
        for name, _, value in (line.partition(":") for line in lines):
            facts.setdefault(name.strip(), value.strip())
        features = facts.get("flags", facts.get("Features", ""))
        digest = hashlib.sha256(features.encode()).hexdigest()[:8]
        return f"{facts.get('model name', platform.machine())} ({digest})"
    return platform.processor() or platform.machine()


def _read(place: Path) -> dict[str, Any]:
    """What the file holds by key; nothing where it cannot be read, or is damaged."""
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return held if isinstance(held, dict) else {}


def _sound(known: Any) -> Rates | None:
    """A remembered value, if it is one and not too old."""
    try:
        gflops = {name: float(known["gflops"][name]) for name in DTYPES}
        rates = Rates(gflops, int(known["measurements"]), float(known["since"]), measured_now=False)
    except (KeyError, TypeError, ValueError):
        return None
    fresh = 0 <= time.time() - rates.since < DAYS * 86_400
    return rates if fresh and min(gflops.values()) > 0 else None


def _remember(place: Path, key: str, rates: Rates) -> None:
    """Write the rates beside those of other machines that share the folder, whole or not at all."""
    value = {"gflops": dict(rates.gflops), "measurements": rates.measurements, "since": rates.since}
    with suppress(OSError, RunError):  # a folder that cannot be written to: the next run measures again
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_text(place, json.dumps({**_read(place), key: value}, indent=1) + "\n")
