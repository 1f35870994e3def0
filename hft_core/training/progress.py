"""Count what a stage has done so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from hft_core.device.flops import Work
from hft_core.results import Evaluation


@dataclass
class Progress:
    """Counts, evaluations and the best score of a stage so far."""

    step: int = 0
    history: list[Evaluation] = field(default_factory=list)
    best_step: int = 0
    best_score: float = -math.inf
    best_loss: float = math.inf
    """Dev loss at the best step, which decides between equal scores."""
    evaluations_since_best: int = 0
    stopped_early: bool = False
    rows: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    max_units: int | None = None
    """Units in a batch, where memory was too small for as many as the recipe says."""
    work: Work = field(default_factory=Work)
    """Floating point operations of this process."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By part of the work (`hft_core.device.clock`), when the progress was last saved."""
    first_losses: dict[str, list[float]] = field(default_factory=dict)
    """Training losses of the first steps by task (`hft_core.training.watch`)."""
    last_losses: dict[str, list[float]] = field(default_factory=dict)
    only_label: dict[str, str] = field(default_factory=dict)
    """By task the label that all rows of the last evaluation got, where they have several; empty: none."""
    noticed: list[str] = field(default_factory=list)
    """Tasks of which observers were told that something is wrong."""
    dev_losses_step: int = 0
    """The step after which the combiner last got dev losses."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Progress:
        """Convert back what `to_json` returned."""
        history = [Evaluation(**evaluation) for evaluation in value["history"]]
        return cls(**{**value, "history": history, "work": Work(**value["work"])})

    def is_evaluated(self) -> bool:
        """Return whether the last finished step was evaluated."""
        return bool(self.history) and self.history[-1].step == self.step
