"""`full`: every parameter of the trunk trains."""

from __future__ import annotations

from hft_core.options import Options as Options  # `full` has no options of its own
from hft_core.strategy import Strategy


def build(options: Options) -> Strategy:
    """The contract's own default trains everything."""
    return Strategy()
