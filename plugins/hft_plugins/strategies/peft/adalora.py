"""`adalora`: train low-rank additions, and allocate their ranks to the layers by importance.

h = W x + (lora_alpha / init_r) · P Λ Q x (Zhang et al. 2023, arXiv:2303.10512; the factor is PEFT's). W is frozen; P, Q
and the diagonal Λ train, and a penalty keeps P and Q nearly orthogonal. PEFT's rank allocator sets the least important
entries of Λ to zero until `target_r` per layer remain on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hft_core.backbone import Backbone
from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions

AVERAGES = ("exp_avg_ipt", "exp_avg_unc")
"""Smoothed sensitivity and uncertainty of each weight, as PEFT's rank allocator calls them."""


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `AdaLoraConfig`."""

    name: ClassVar[str] = "adalora"
    method: ClassVar[str] = "ADALORA"

    init_r: int = Field(default=12, ge=2, description="rank of every addition at first")
    target_r: int = Field(default=8, ge=1, description="mean rank of the additions in the end")
    tinit: int = Field(default=0, ge=0, description="steps before ranks are reduced")
    tfinal: int = Field(default=0, ge=0, description="steps at the end in which ranks stay as they are")
    deltaT: int = Field(default=1, ge=1, description="steps between two reductions")  # noqa: N815  # PEFT's name
    orth_reg_weight: float = Field(default=0.5, ge=0, description="weight of the orthogonal regularization")
    lora_alpha: int = Field(default=32, ge=1, description="scale of the additions")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")


class AdaLora(Injected):
    """Run PEFT's rank allocator after each step of the stage."""

    _finished = False

    def begin(self, backbone: Backbone, steps: int) -> None:
        """Raises `PluginError` when the stage has too few steps for the schedule."""
        config: Any = self.config
        if config.tinit >= steps - config.tfinal:
            raise self._refusal(
                f"the trunk moves in {steps} steps, and tinit {config.tinit} and tfinal {config.tfinal} leave none "
                "of them to reduce the ranks in"
            )
        config.total_step = steps

    def penalty(self, backbone: Backbone) -> Tensor:
        """`orth_reg_weight` times the mean distance of the factors from orthogonality, as in PEFT's
        `AdaLoraModel.forward`."""
        parts = []
        for name, p in backbone.trunk.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                product = p @ p.T if ".lora_A." in name else p.T @ p
                parts.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=p.device)))
        config: Any = self.config
        weight: float = config.orth_reg_weight
        return weight * torch.stack(parts).mean()

    def step_finished(self, backbone: Backbone, step: int) -> None:
        if any(p.requires_grad and p.grad is None for p in self._model.parameters()):
            return  # nothing was learned in this step
        config: Any = self.config
        last = config.total_step - config.tfinal
        # A skipped step may be the one in which the ranks become final.
        self._model.base_model.update_and_allocate(step if step < last or self._finished else last)
        self._finished = step >= last

    def state(self) -> dict[str, Tensor]:
        allocator = self._model.base_model.rankallocator
        config: Any = self.config
        averages = {f"{kind}/{name}": t for kind in AVERAGES for name, t in getattr(allocator, kind).items()}
        ranks = {f"rank_pattern/{name}": torch.tensor(kept) for name, kept in (config.rank_pattern or {}).items()}
        return {**averages, **ranks, "finished": torch.tensor(self._finished)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        allocator = self._model.base_model.rankallocator
        by_kind: dict[str, dict[str, Tensor]] = {kind: {} for kind in (*AVERAGES, "rank_pattern")}
        for key, tensor in state.items():
            kind, _, name = key.partition("/")
            if name:
                by_kind[kind][name] = tensor
        device = next(self._model.parameters()).device
        allocator.ipt = {name: torch.zeros_like(t, device=device) for name, t in by_kind[AVERAGES[0]].items()}
        for kind in AVERAGES:
            setattr(allocator, kind, {name: tensor.to(device) for name, tensor in by_kind[kind].items()})
        config: Any = self.config
        config.rank_pattern = {n: kept.tolist() for n, kept in by_kind["rank_pattern"].items()} or None
        self._finished = bool(state["finished"])

    def _saved(self) -> tuple[Any, dict[str, Tensor]]:
        """With all of `init_r`: what the allocator took away is zero. The ranks of the last step need not be those of
        the best one, whose weights these may be."""
        config: Any = self.config
        ranks, config.rank_pattern = config.rank_pattern, None
        try:
            saved, state = super()._saved()
        finally:
            config.rank_pattern = ranks
        return saved, state

    def _prepare_loading(self, backbone: Backbone) -> None:
        config: Any = self.config
        config.rank_pattern = None


def build(options: Options) -> AdaLora:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return AdaLora(options.configuration(), options.name)
