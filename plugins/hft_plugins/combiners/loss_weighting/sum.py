"""`sum`: add the mean losses of the tasks, Σ_t loss_t."""

from __future__ import annotations

from collections.abc import Sequence

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `sum` has no options of its own


def build(options: Options, *, tasks: Sequence[str]) -> Combiner:
    """Build the base combiner, which adds the losses."""
    return Combiner(tuple(tasks))
