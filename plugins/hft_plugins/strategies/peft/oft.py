"""`oft`: train orthogonal rotations of each weight, block by block.

h = W Rᵀ x, where R is block-diagonal and each block is (I + Q)(I − Q)⁻¹ with a skew-symmetric Q (Qiu et al. 2023,
arXiv:2306.07280); PEFT computes the inverse by the first terms of its Neumann series. W is frozen; the Q, initialized
to zero, train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `OFTConfig`."""

    name: ClassVar[str] = "oft"
    method: ClassVar[str] = "OFT"

    oft_block_size: int = Field(default=32, ge=2, description="size of the orthogonal blocks")
    module_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of blocks dropped in training")
    coft: bool = Field(default=False, description="constrain the rotations to a small norm")
    block_share: bool = Field(default=False, description="share one block within each layer")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
