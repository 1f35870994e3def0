"""`lora`: low-rank additions to the trunk's linear layers, one set shared by all tasks; PEFT does the work."""

from __future__ import annotations

from typing import Literal

from peft import LoraConfig
from pydantic import Field

from hft_core import options
from hft_plugins.strategies.injected import Injected


class Options(options.Options):
    """The usual fields of PEFT's `LoraConfig`."""

    r: int = Field(default=16, ge=1, description="rank of the additions")
    lora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; 2·r when left out")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the linear layers to add to, a regular expression, or 'all-linear'"
    )
    bias: Literal["none", "all", "lora_only"] = Field(default="none", description="which biases train as well")
    use_rslora: bool = Field(default=False, description="scale by alpha/√r instead of alpha/r (arXiv:2312.03732)")


def build(options: Options) -> Injected:
    """LoRA with PEFT's own initialisation: the additions are zero at first."""
    target = options.target_modules
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.lora_alpha or 2 * options.r,
        lora_dropout=options.lora_dropout,
        target_modules=target if isinstance(target, str) else list(target),
        bias=options.bias,
        use_rslora=options.use_rslora,
    )
    return Injected(config, "lora")
