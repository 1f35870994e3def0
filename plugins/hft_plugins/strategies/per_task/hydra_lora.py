"""`hydra-lora`: one shared A and several Bs, between which a router chooses for each token.

Tian et al. 2024, arXiv:2404.19245: `h = W x + s · Σ_i softmax(W_g x)_i B_i A x`, s being LoRA's scaling.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core.backbone import Backbone
from hft_core.strategy import Strategy
from hft_plugins.strategies.peft.adapter_folder import on_disk
from hft_plugins.strategies.per_task import per_task_lora
from hft_plugins.strategies.per_task.grouped_matmul import product_dtype
from hft_plugins.strategies.per_task.per_task_lora import PerTaskLora, parts_of
from hft_plugins.strategies.per_task.routed_linear import Found, RoutedLinear, Size, routed_layers

WEIGHTS_FILE, CONFIG_FILE = "hydra_lora.safetensors", "hydra_lora.json"


class Options(per_task_lora.Options):
    """Fields of PEFT's `LoraConfig`, and the number of Bs by the name that it has in the paper's code."""

    lora_nums: int = Field(default=3, ge=1, description="number of Bs")


class HydraLoraLinear(RoutedLinear):
    """Adds to each token's features a mixture of LoRAs that have their A in common."""

    def __init__(self, found: Found, settings: dict[str, Any], size: Size) -> None:
        super().__init__(found, settings)
        self.scaling = size.scaling
        self.shared.lora_A = self.kaiming(size.r, self.in_features)
        self.shared.lora_B = self.zeros(settings["lora_nums"], self.out_features, size.r)
        self.shared.lora_route = self.kaiming(settings["lora_nums"], self.in_features)

    def add(self, output: Tensor, dropped: Tensor, x: Tensor) -> Tensor:
        """Compute one product with all Bs concatenated, of A's output times each B's weight."""
        shared = self.shared
        dtype = product_dtype(x, shared.lora_A)
        weights = torch.softmax(x.to(dtype) @ shared.lora_route.to(dtype).T, dim=-1, dtype=torch.float32).to(dtype)
        inner = dropped.to(dtype) @ shared.lora_A.to(dtype).T
        mixed = (weights.unsqueeze(-1) * inner.unsqueeze(-2)).flatten(-2)
        up = shared.lora_B.to(dtype).transpose(0, 1).flatten(1)
        flat = output.to(dtype).reshape(-1, self.out_features)
        added = torch.addmm(flat, mixed.reshape(-1, mixed.shape[-1]), up.T, alpha=self.scaling)
        return added.view(output.shape).to(output.dtype)


class HydraLora(PerTaskLora):
    """Share all parts between tasks; a router weights them by the token, not by its task."""

    name = "hydra-lora"
    unfoldable = "mixes its additions anew for each token"
    plain = False
    # No layer asks whose its rows are.
    route, forward, upper = Strategy.route, Strategy.forward, Strategy.upper

    def __init__(self, chosen: Options) -> None:
        super().__init__(chosen)
        self.lora_nums = chosen.lora_nums

    def layer(self, found: Found) -> RoutedLinear:
        return HydraLoraLinear(found, self.settings(), self.options.size())

    def settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.options.size()), "lora_nums": self.lora_nums}

    def size_of(self, task: str) -> None:
        return None

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        """Weights and configuration in files of hft's own: PEFT has no such method."""
        layers = routed_layers(backbone.trunk)
        state = {f"trunk.{name}": tensor for name, tensor in parts_of(layers, None).items()}
        state |= {f"head.{name}": tensor for name, tensor in head.items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(on_disk(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {"base_model_name_or_path": base, "plain_class": plain_class, **self.settings()}
        config["target_modules"] = sorted(layers)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the file's weights are not those of the trunk's layers, or not those of the task
        that was loaded before."""
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        self.check_settings(CONFIG_FILE, {key: config.get(key) for key in self.settings()})
        state = load_file(folder / WEIGHTS_FILE)
        given = {name.removeprefix("trunk."): t for name, t in state.items() if name.startswith("trunk.")}
        self.load_shared(routed_layers(backbone.trunk), task, given)
        return {name: state[f"head.{name}"] for name in head if f"head.{name}" in state}


def build(options: Options) -> HydraLora:
    return HydraLora(options)
