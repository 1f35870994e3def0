"""LoRA that begins with a part of the trunk's own weights (PiSSA, OLoRA and the like), saved as an ordinary LoRA.

Such an initialization splits each weight into `W = W' + s·B₀A₀`: the trunk keeps `W'` and the factors train. What is
saved is the difference to the unchanged trunk, `s·(BA − B₀A₀)`: a LoRA of twice the rank, as PEFT's own conversion
makes it (`LoraModel.subtract_mutated_init`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import PeftConfig
from torch import Tensor

from hft_core.backbone import Backbone
from hft_plugins.strategies.peft.injected import Injected

INITIALIZATIONS = ("pissa", "olora", "corda", "lora_ga")
"""The beginnings of `init_lora_weights` that PEFT can convert."""

_JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lora_A": lambda factor, initial: torch.cat([factor, initial], dim=0),
    "lora_B": lambda factor, initial: torch.cat([factor, -initial], dim=1),
}


class Converted(Injected):
    """Train such a LoRA, and save it for the unchanged trunk."""

    def __init__(self, config: PeftConfig, name: str) -> None:
        super().__init__(config, name)
        self._initial: dict[str, Tensor] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        devices = {parameter.device for parameter in backbone.trunk.parameters() if parameter.is_cuda}
        # PiSSA's fast variant draws at random: a stage that is resumed must find the same factors.
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(0)
            super().apply(backbone, tasks)
        self._initial = {name: tensor.detach().clone() for name, tensor in super()._saved()[1].items()}

    def _saved(self) -> tuple[Any, dict[str, Tensor]]:
        config, state = super()._saved()
        if not self._initial:
            return config, state
        joined = dict(state)
        for name, tensor in state.items():
            join = next((join for part, join in _JOINED.items() if f".{part}." in name), None)
            if join is not None:
                joined[name] = join(tensor, self._initial[name])
        return _doubled(config), joined

    def _prepare_loading(self, backbone: Backbone) -> None:
        if not self._initial:
            return
        config = _doubled(super()._saved()[0])
        self._model.base_model.unload()
        with torch.no_grad():
            for name, tensor in self._originals.items():
                module, leaf = self._own[name]
                getattr(module, leaf).copy_(tensor)
        own = self._own
        self._forget(backbone)
        self._initial, self._own = {}, own
        self._inject(backbone, config)


def _doubled(config: Any) -> Any:
    """The configuration of an ordinary LoRA of twice the rank with the same scale: `alpha / r`, or `alpha / √r`."""
    doubled = copy.deepcopy(config)
    doubled.init_lora_weights = True
    doubled.r = 2 * config.r
    doubled.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    doubled.rank_pattern = {key: 2 * rank for key, rank in (config.rank_pattern or {}).items()}
    doubled.alpha_pattern = {key: 2 * alpha for key, alpha in (config.alpha_pattern or {}).items()}
    return doubled
