"""LoRA variants with mixed batches: parameters per task, or a learned mixture of shared ones."""

from __future__ import annotations

from hft_core.specs import StrategySpec

SPECS = (
    StrategySpec(
        name="task-lora",
        summary="Trains a LoRA of its own for each task over one frozen trunk, in mixed batches",
        factory="hft_plugins.strategies.per_task.task_lora:build",
        options="hft_plugins.strategies.per_task.task_lora:Options",
        example={"r": 4},
        source="Hu et al. 2021, arXiv:2106.09685; PEFT LoraConfig",
        private_parts=True,
        merges=False,
        continues=("task-lora",),
    ),
    StrategySpec(
        name="shared-task-lora",
        summary="Trains one LoRA that all tasks share and one for each task, added",
        factory="hft_plugins.strategies.per_task.shared_task_lora:build",
        options="hft_plugins.strategies.per_task.shared_task_lora:Options",
        example={"r": 4, "task_r": 2},
        source="Hu et al. 2021, arXiv:2106.09685; PEFT LoraConfig",
        private_parts=True,
        merges=False,
        continues=("shared-task-lora",),
    ),
    StrategySpec(
        name="mtl-lora",
        summary="Trains a LoRA with a per-task transformation of its features, and shared Bs that each task weights",
        factory="hft_plugins.strategies.per_task.mtl_lora:build",
        options="hft_plugins.strategies.per_task.mtl_lora:Options",
        example={"r": 4},
        source="Yang et al. 2024, arXiv:2410.09437",
        private_parts=True,
        merges=False,
        continues=("mtl-lora",),
    ),
    StrategySpec(
        name="hydra-lora",
        summary="Trains a LoRA with one A and several Bs, mixed by a router for each token",
        factory="hft_plugins.strategies.per_task.hydra_lora:build",
        options="hft_plugins.strategies.per_task.hydra_lora:Options",
        example={"r": 4},
        source="Tian et al. 2024, arXiv:2404.19245",
        merges=False,
        continues=("hydra-lora",),
    ),
)
