"""Run or resume a sweep of fake runs (`fake_run.py`): `python sweep_driver.py RECIPE|- OUT TRIALS SECONDS`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hft_core.launcher import Handle, Slot
from hft_core.plugins.catalogue import Catalogue
from hft_core.studies import sweep_worker
from hft_core.studies.sweep import SweepSummary, sweep
from hft_core.studies.sweep_plan import request
from hft_plugins.launchers.local import Local

sweep_worker.POLL_SECONDS = 0.02
RUN = Path(__file__).with_name("fake_run.py")


class StandIns(Local):
    """Start a fake run with a trial's recipe and folder."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started: list[str] = []

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Handle:
        self.started.append(Path(argv[6]).name)
        return super().launch([argv[0], str(RUN), argv[4], argv[6], str(self.seconds)], slot, log)


def swept(
    recipe: Path | None,
    out: Path,
    search: Sequence[str] = (),
    *,
    trials: int = 8,
    pruner: str | None = "none",
    seeds: int = 1,
    minimize: Sequence[str] = (),
    seconds: float = 0.0,
    launcher: StandIns | None = None,
    lines: list[str] | None = None,
) -> SweepSummary | None:
    asked = None
    if recipe is not None:
        asked = request(recipe, search, trials, pruner, seeds=seeds, minimize=minimize)
    said = [] if lines is None else lines
    launcher = launcher or StandIns(seconds)
    return sweep(asked, out, Catalogue.discover(), slots=1, launcher=launcher, say=said.append)


if __name__ == "__main__":
    recipe = None if sys.argv[1] == "-" else Path(sys.argv[1])
    swept(recipe, Path(sys.argv[2]), sys.argv[5:], trials=int(sys.argv[3]), seconds=float(sys.argv[4]))
