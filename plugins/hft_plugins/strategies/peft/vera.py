"""`vera`: train two vectors a layer around random low-rank matrices that all layers share.

h = W x + Λ_b B Λ_d A x (Kopiczko et al. 2023, arXiv:2310.11454). W and the random A, B are frozen; the diagonals b
`[out]` and d `[r]` train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `VeraConfig`."""

    name: ClassVar[str] = "vera"
    method: ClassVar[str] = "VERA"

    r: int = Field(default=256, ge=1, description="rank of the random matrices that all layers share")
    vera_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    d_initial: float = Field(default=0.1, description="first value of the vector between the matrices")
    projection_prng_key: int = Field(default=0, description="seed of the random matrices")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
