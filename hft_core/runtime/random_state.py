"""Save, restore and seed every random number generator that a run may use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_seed(*keys: int) -> int:
    """Return a 64-bit seed that depends on all of `keys`."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


Snapshot = tuple[dict[str, Any], dict[str, Tensor]]


def seed(value: int) -> None:
    """Seed every generator with `value` (below 2⁶⁴)."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (it takes no more)
    torch.manual_seed(value)  # of the devices too


def snapshot() -> Snapshot:
    """Return the states of Python's, numpy's, torch's and the devices' generators, as JSON values and tensors."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one is meant)
    facts = {
        "python": [version, list(internal), gauss],
        "numpy": [str(name), int(position), int(has_gauss), float(cached)],
    }
    tensors = {"numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return facts, tensors


def restore(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Restore what `snapshot` returned; states of devices that this machine lacks are skipped."""
    version, internal, gauss = facts["python"]
    random.setstate((version, tuple(internal), gauss))
    name, position, has_gauss, cached = facts["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, keys, position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(tensors["torch"])
    for name, state in tensors.items():
        device = int(name.removeprefix("cuda.")) if name.startswith("cuda.") else None
        if device is not None and device < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's random state at the end, so that numbers drawn inside change nothing outside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
