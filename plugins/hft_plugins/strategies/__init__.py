"""Parameter-sharing strategies: light specs only; each implementation is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import StrategySpec


@hookimpl
def hft_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="full",
            summary="Trains every parameter of the trunk",
            factory="hft_plugins.strategies.full:build",
            options="hft_plugins.strategies.full:Options",
            source="fine-tuning (Howard and Ruder 2018, arXiv:1801.06146)",
        ),
        StrategySpec(
            name="frozen",
            summary="Keeps the trunk as it is, a feature extractor; only heads train",
            factory="hft_plugins.strategies.frozen:build",
            options="hft_plugins.strategies.frozen:Options",
            source="linear probing (Alain and Bengio 2016, arXiv:1610.01644)",
        ),
        StrategySpec(
            name="partial",
            summary="Trains the top layers of the trunk",
            factory="hft_plugins.strategies.partial:build",
            options="hft_plugins.strategies.partial:Options",
            example={"layers": 1},
            source="layer freezing (Lee et al. 2019, arXiv:1911.03090)",
        ),
        StrategySpec(
            name="lora",
            summary="Trains low-rank additions to the trunk's linear layers, shared by all tasks",
            factory="hft_plugins.strategies.lora:build",
            options="hft_plugins.strategies.lora:Options",
            example={"r": 4},
            source="Hu et al. 2021, arXiv:2106.09685; PEFT LoraConfig",
        ),
    ]
