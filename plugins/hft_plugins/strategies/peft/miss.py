"""`miss`: train one small matrix a layer, shared between the shards of its weight.

h = W x + D Σ_i x_i, where x_i are the consecutive shards of size r of x (Kang and Yin 2024, arXiv:2409.15371). W is
frozen; D `[out, r]`, initialized to zero, trains.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `MissConfig`."""

    name: ClassVar[str] = "miss"
    method: ClassVar[str] = "MISS"

    r: int = Field(default=64, ge=1, description="rank of the shards along the inputs")
    mini_r: int = Field(default=1, ge=1, description="rank along the outputs")
    miss_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
