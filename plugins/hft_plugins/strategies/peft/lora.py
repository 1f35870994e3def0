"""`lora`: train a low-rank addition to each linear layer of the trunk, shared by all tasks.

h = W x + (lora_alpha / r) · B A x (Hu et al. 2021, arXiv:2106.09685). W `[out, in]` is frozen; A `[r, in]`,
random at first, and B `[out, r]`, zero at first, train. PEFT's `LoraConfig` injects A and B next to each W, and adds
their product to W when another stage follows (see `injected`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `LoraConfig`."""

    name: ClassVar[str] = "lora"
    method: ClassVar[str] = "LORA"
    alpha_by_rank: ClassVar[int] = 2
    """Default of `lora_alpha`, as a multiple of r."""

    r: int = Field(default=16, ge=1, description="rank of the additions")
    lora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; follows r when left out")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    bias: Literal["none", "all", "lora_only"] = Field(default="none", description="which biases train as well")
    use_rslora: bool = Field(default=False, description="scale by alpha/√r instead of alpha/r (arXiv:2312.03732)")

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "lora_alpha": self.lora_alpha or self.alpha_by_rank * self.r}


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
