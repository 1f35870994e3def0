"""`full`: train every parameter of the trunk."""

from __future__ import annotations

from hft_core.options import Options as Options  # `full` has no options of its own
from hft_core.strategy import Strategy


def build(options: Options) -> Strategy:
    """Build the base strategy, which trains everything."""
    return Strategy()
