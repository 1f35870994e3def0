"""Strategies that choose which of the trunk's own parameters train, and how; they add none."""

from __future__ import annotations

from hft_core.specs import StrategySpec

SPECS = (
    StrategySpec(
        name="full",
        summary="Trains every parameter of the trunk",
        factory="hft_plugins.strategies.selective.full:build",
        options="hft_plugins.strategies.selective.full:Options",
        source="fine-tuning (Howard and Ruder 2018, arXiv:1801.06146)",
    ),
    StrategySpec(
        name="frozen",
        summary="Freezes the trunk as a feature extractor; only heads train",
        factory="hft_plugins.strategies.selective.frozen:build",
        options="hft_plugins.strategies.selective.frozen:Options",
        source="linear probing (Alain and Bengio 2016, arXiv:1610.01644)",
    ),
    StrategySpec(
        name="partial",
        summary="Trains the top layers of the trunk",
        factory="hft_plugins.strategies.selective.partial:build",
        options="hft_plugins.strategies.selective.partial:Options",
        example={"layers": 1},
        source="layer freezing (Lee et al. 2019, arXiv:1911.03090)",
    ),
    StrategySpec(
        name="bitfit",
        summary="Trains the biases of the trunk",
        factory="hft_plugins.strategies.selective.bitfit:build",
        options="hft_plugins.strategies.selective.bitfit:Options",
        source="Ben Zaken et al. 2022, arXiv:2106.10199",
    ),
    StrategySpec(
        name="layer-norm",
        summary="Trains the weights and biases of the trunk's norms",
        factory="hft_plugins.strategies.selective.layer_norm:build",
        options="hft_plugins.strategies.selective.layer_norm:Options",
        source="Zhao et al. 2023, arXiv:2312.11420",
    ),
    StrategySpec(
        name="gradual-unfreezing",
        summary="Trains the top layer first, and unfreezes one lower layer at a time",
        factory="hft_plugins.strategies.selective.gradual_unfreezing:build",
        options="hft_plugins.strategies.selective.gradual_unfreezing:Options",
        source="Howard and Ruder 2018, arXiv:1801.06146",
    ),
    StrategySpec(
        name="layerwise-decay",
        summary="Trains every parameter of the trunk, lower layers at lower learning rates",
        factory="hft_plugins.strategies.selective.layerwise_decay:build",
        options="hft_plugins.strategies.selective.layerwise_decay:Options",
        source="Clark et al. 2020, arXiv:2003.10555",
    ),
    StrategySpec(
        name="l2-sp",
        summary="Trains every parameter of the trunk, regularized towards its initial value",
        factory="hft_plugins.strategies.selective.l2_sp:build",
        options="hft_plugins.strategies.selective.l2_sp:Options",
        source="Li et al. 2018, arXiv:1802.01483",
    ),
)
