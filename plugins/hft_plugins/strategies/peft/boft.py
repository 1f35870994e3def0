"""`boft`: train orthogonal rotations of each weight as a product of butterfly factors.

h = s ⊙ (W Rᵀ x), where R is a product of sparse orthogonal matrices (Liu et al. 2023, arXiv:2311.06243). W is frozen;
the blocks of the factors and the scales s `[out]`, initialized to one, train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `BOFTConfig`."""

    name: ClassVar[str] = "boft"
    method: ClassVar[str] = "BOFT"

    boft_block_size: int = Field(default=4, ge=2, description="size of the orthogonal blocks")
    boft_n_butterfly_factor: int = Field(default=1, ge=1, description="number of butterfly factors")
    boft_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of blocks dropped in training")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
