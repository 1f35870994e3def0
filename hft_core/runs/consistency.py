"""What the processes of a run must have in common before they begin, where each machine has files of its own."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from hft_core.device.process_group import ProcessGroup
from hft_core.errors import UsageError
from hft_core.runs.assembly import Material
from hft_core.training.checkpoint import Checkpoint

SAMPLE = 4096
"""Values of each tensor that are compared."""


def check_same_start(group: ProcessGroup, material: Material, at: Checkpoint | None, folder: Path | None) -> None:
    """Raise `UsageError` in all processes where they would not go on from one checkpoint, or have not read the same
    rows or the same model. All must call it."""
    if group.world_size == 1:
        return
    checkpoints = group.all_gather("none" if at is None else at.path.name)
    if other := _odd_one(checkpoints):
        raise UsageError(
            f"process {other} finds the checkpoint {checkpoints[other]} in '{folder}', and process 0 finds "
            f"{checkpoints[0]}: expected a run folder that all machines see, or that of the first copied to all"
        )
    for what, mine in (("data", _rows(material)), ("model", _weights(material))):
        everywhere = group.all_gather(mine)
        for name in dict.fromkeys(name for found in everywhere for name in found):
            if other := _odd_one([found.get(name) for found in everywhere]):
                raise UsageError(
                    f"process {other} has another {what} than process 0 ({name}): expected the same in all"
                )


def _odd_one(found: Sequence[object]) -> int:
    """The first process whose value is not that of process 0; 0 where there is none."""
    return next((rank for rank, value in enumerate(found) if value != found[0]), 0)


def _rows(material: Material) -> dict[str, int]:
    return {
        f"task '{task}', {split}": examples.fingerprint()
        for split, tasks in material.examples.items()
        for task, examples in tasks.items()
    }


def _weights(material: Material) -> dict[str, int]:
    """A number for the first values of each tensor of the trunk."""
    firsts = {
        name: p.detach().reshape(-1)[:SAMPLE].float().cpu() for name, p in material.model.trunk.named_parameters()
    }
    return {name: zlib.crc32(first.numpy().tobytes()) for name, first in firsts.items()}
