"""Loss combiners: from the losses of a step's tasks to one update. Each package lists the specs of its plugins."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import CombinerSpec
from hft_plugins.combiners import gradient_aggregation, loss_weighting

SPECS: tuple[CombinerSpec, ...] = (*loss_weighting.SPECS, *gradient_aggregation.SPECS)


@hookimpl
def hft_combiners() -> list[CombinerSpec]:
    return list(SPECS)
