"""LoRA-Pro for hft: a light spec only; the strategy is imported when it is first used."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import StrategySpec


@hookimpl
def hft_strategies() -> list[StrategySpec]:
    return [
        StrategySpec(
            name="lora-pro",
            summary="Trains low-rank additions with gradients whose effect is nearest to the full gradient",
            factory="hft_lora_pro.strategy:build",
            options="hft_lora_pro.strategy:Options",
            example={"r": 4},
            source="Wang et al. 2024, arXiv:2407.18242; PEFT LoraConfig",
        )
    ]
