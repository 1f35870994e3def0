"""Parameter-sharing strategies: which parameters of the trunk train. Each package lists the specs of its plugins."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import StrategySpec
from hft_plugins.strategies import bottleneck, peft, per_task, selective

SPECS: tuple[StrategySpec, ...] = (*selective.SPECS, *peft.SPECS, *bottleneck.SPECS, *per_task.SPECS)


@hookimpl
def hft_strategies() -> list[StrategySpec]:
    return list(SPECS)
