"""The contract of the tracker seam: the numbers of a run, sent to a program that keeps and plots them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of its run."""

    name: str
    """The name of the run's folder."""
    folder: Path
    """An existing folder for files of the tracker, the same one when the run is resumed."""
    recipe: str
    """The recipe as YAML."""
    settings: Mapping[str, Scalar]
    """The recipe's single values by dotted key: `stages.finetune.learning_rate`."""
    identity: str = ""
    """`Tracker.identity` of the run that is resumed; empty for a new one."""
    step: int = 0
    """The last step, counted over all stages, that a resumed run does not repeat."""


class Tracker(ABC):
    """Records one run.

    Built and called in a thread of its own, one call at a time: it may block, and where it raises, the run continues
    without it. It draws nothing from the global generators of Python, numpy and torch, which the run uses meanwhile.
    """

    identity: str = ""
    """What names the tracked run, so that a resumed run continues it; set when built."""

    @abstractmethod
    def record(self, values: Mapping[str, float], step: int) -> None:
        """Record finite numbers by name at a step, which never falls; several calls may have the same step."""

    @abstractmethod
    def finish(self, *, failed: bool) -> None:
        """Write what is left and close; `failed`: the run ended with an error, and may be resumed."""
