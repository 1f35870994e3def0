"""Check that all processes of a run begin with the same checkpoint, learned facts, rows and weights."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from hft_core.device.process_group import ProcessGroup
from hft_core.errors import UsageError
from hft_core.runs.assembly import BuiltRun
from hft_core.runs.learned_facts import Facts, difference, facts_of
from hft_core.runtime.run_folder import RunFolder
from hft_core.training.checkpoint import Checkpoint

SAMPLE = 4096
"""Values of each tensor that are compared."""


def check_same_start(
    group: ProcessGroup, built: BuiltRun, resume_from: Checkpoint | None, folder: RunFolder | None
) -> None:
    """Check that all processes would begin from the same state; all must call it.

    Raises `UsageError` in all of them when they found different checkpoints, or have different rows, weights, or facts
    that heads learned (the order of labels, say).
    """
    if group.world_size == 1:
        return
    checkpoints = group.all_gather("none" if resume_from is None else resume_from.path.name)
    if rank := _first_different(checkpoints):
        path = None if folder is None else folder.path
        raise UsageError(
            f"process {rank} finds the checkpoint {checkpoints[rank]} in '{path}', and process 0 finds "
            f"{checkpoints[0]}: expected a run folder that all machines see, or that of the first copied to all"
        )
    check_same_facts(group.all_gather(facts_of(built.heads)))
    for what, own in (("data", _row_hashes(built)), ("model", _weight_hashes(built))):
        by_rank = group.all_gather(own)
        for name in dict.fromkeys(name for hashes in by_rank for name in hashes):
            if rank := _first_different([hashes.get(name) for hashes in by_rank]):
                raise UsageError(f"process {rank} has another {what} than process 0 ({name}): expected the same in all")


def check_same_facts(by_rank: Sequence[Facts]) -> None:
    """Raise `UsageError` when the heads of two processes learned different facts."""
    for rank, facts in enumerate(by_rank):
        for task, first in by_rank[0].items():
            places = ("in process 0", f"in process {rank}")
            if found := difference(first, facts.get(task, {}), places):
                raise UsageError(
                    f"task '{task}': the heads of two processes learned different facts from the training rows "
                    f"({found}): expected the same data, plugins and versions in all"
                )


def _first_different(values: Sequence[object]) -> int:
    """Return the first rank whose value differs from that of rank 0; 0 where there is none."""
    return next((rank for rank, value in enumerate(values) if value != values[0]), 0)


def _row_hashes(built: BuiltRun) -> dict[str, int]:
    """Return a hash of the tokenized rows of each task and split."""
    return {
        f"task '{task}', {split}": examples.fingerprint()
        for split, tasks in built.examples.items()
        for task, examples in tasks.items()
    }


def _weight_hashes(built: BuiltRun) -> dict[str, int]:
    """Return a hash of the first values of each of the trunk's tensors."""
    return {
        name: zlib.crc32(parameter.detach().reshape(-1)[:SAMPLE].float().cpu().numpy().tobytes())
        for name, parameter in built.model.trunk.named_parameters()
    }
