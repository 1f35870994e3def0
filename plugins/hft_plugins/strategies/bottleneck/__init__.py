"""Strategies that train bottleneck adapters: shared by all tasks, per task, and their fusion."""

from __future__ import annotations

from hft_core.specs import StrategySpec

SPECS = (
    StrategySpec(
        name="bottleneck",
        summary="Trains bottleneck adapters in the trunk's layers, shared by all tasks",
        factory="hft_plugins.strategies.bottleneck.shared:build",
        options="hft_plugins.strategies.bottleneck.shared:Options",
        example={"bottleneck_size": 4},
        source="Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247; He et al. 2022, "
        "arXiv:2110.04366",
        merges=False,
    ),
    StrategySpec(
        name="task-bottleneck",
        summary="Trains bottleneck adapters of its own for each task over one frozen trunk",
        factory="hft_plugins.strategies.bottleneck.per_task:build",
        options="hft_plugins.strategies.bottleneck.per_task:Options",
        example={"bottleneck_size": 4},
        source="Pfeiffer et al. 2021, arXiv:2005.00247",
        private_parts=True,
        merges=False,
        continues=("task-bottleneck",),
    ),
    StrategySpec(
        name="adapter-fusion",
        summary="After a stage of task-bottleneck: each task learns to attend over the adapters of all tasks",
        factory="hft_plugins.strategies.bottleneck.fusion:build",
        options="hft_plugins.strategies.bottleneck.fusion:Options",
        source="Pfeiffer et al. 2021, arXiv:2005.00247",
        private_parts=True,
        merges=False,
        continues=("task-bottleneck",),
    ),
)
