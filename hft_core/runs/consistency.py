"""Check that all processes of a run, and a resumed run, begin with the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hft_core.device.process_group import ProcessGroup
from hft_core.errors import UsageError
from hft_core.pins import Pins, Place
from hft_core.runs.learned_facts import Facts, difference
from hft_core.runtime.run_folder import RunFolder
from hft_core.training.checkpoint import Checkpoint

ROUNDING = "its results equal those of an uninterrupted run up to rounding, not bit for bit"


def check_same_start(
    group: ProcessGroup, pins: Pins, facts: Facts, resume_from: Checkpoint | None, folder: RunFolder | None
) -> None:
    """Check that all processes would begin from the same state; all must call it.

    Raises `UsageError` in all of them when they found different checkpoints, read different inputs, or have heads that
    learned different facts (the order of labels, say).
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
    check_same_facts(group.all_gather(facts))
    by_rank = group.all_gather(pins)
    for rank, other in enumerate(by_rank[1:], start=1):
        if changed := [*by_rank[0].changes(other, same_place=False), *by_rank[0].version_changes(other)]:
            raise UsageError(
                f"process {rank} has another input than process 0 ({'; '.join(changed)}): expected the same in all"
            )


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


def check_same_inputs(
    resume_from: Checkpoint, pins: Pins, place: Place, folder: RunFolder, *, accept: bool
) -> tuple[Pins, list[str]]:
    """Compare what a run is resumed with, and where, with what it began with.

    Returns the pins to resume with, and what the results have to report. Raises `UsageError` for other inputs, unless
    they are accepted.
    """
    before, step = resume_from.state.run, resume_from.step
    notes = [*before.notes]
    changed = before.pins.changes(pins, same_place=before.place == place)
    moved = before.pins.moved_data(pins)
    names = "; ".join(changed) + (f" ({'; '.join(moved)})" if moved else "")
    if changed and not accept:
        raise UsageError(
            f"the run in '{folder.path}' did not begin with what it would be resumed with: {names} changed since; "
            f"restore that, start a new run, or accept it with 'hft resume {folder.path} --accept-changed'"
        )
    if changed:
        notes.append(f"resumed after step {step} of its stage with changed inputs, which was accepted: {names}")
    if others := before.pins.version_changes(pins):
        notes.append(f"resumed after step {step} of its stage with other versions ({'; '.join(others)}): {ROUNDING}")
    if before.place != place:
        notes.append(_of_places(before.place, place, step))
    return replace(pins, accepted=(*before.pins.accepted, *changed)), notes


def _of_places(before: Place, now: Place, step: int) -> str:
    was, here = before.differences(now)
    drawn = ", and dropout is drawn anew" if before.processes != now.processes else ""
    return f"the run was computed by {was} and is resumed, after step {step} of its stage, by {here}: {ROUNDING}{drawn}"
