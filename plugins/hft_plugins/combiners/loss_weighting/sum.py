"""`sum`: the tasks' mean losses added up."""

from __future__ import annotations

from collections.abc import Sequence

from hft_core.combiner import Combiner
from hft_core.options import Options as Options  # `sum` has no options of its own


def build(options: Options, *, tasks: Sequence[str]) -> Combiner:
    """The contract's own default is the sum."""
    return Combiner(tuple(tasks))
