"""The state of every random number generator that code in a run may use, as JSON and tensors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_seed(*keys: int) -> int:
    """A seed of 64 bits that depends on all of `keys`."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0])


Snapshot = tuple[dict[str, Any], dict[str, Tensor]]


def seed(value: int) -> None:
    """Let every generator begin anew from `value` (below 2⁶⁴)."""
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (it takes no more)
    torch.manual_seed(value)  # of the devices too


def snapshot() -> Snapshot:
    """The states of Python's, numpy's, torch's and the devices' generators."""
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
    """The inverse of `snapshot`; states of devices that are not here are left out."""
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
    """Afterwards, dropout goes on as if nothing had been drawn inside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
