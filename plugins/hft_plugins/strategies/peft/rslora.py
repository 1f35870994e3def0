"""`rslora`: train LoRA's low-rank additions with a scale that does not shrink with the rank.

h = W x + (lora_alpha / √r) · B A x (Kalajdzievski 2023, arXiv:2312.03732). W is frozen; A and B train.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft import lora
from hft_plugins.strategies.peft.injected import Injected


class Options(lora.Options):
    """The fields of `lora`."""

    name: ClassVar[str] = "rslora"
    use_rslora: Literal[True] = Field(default=True, description="scale by alpha/√r instead of alpha/r")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
