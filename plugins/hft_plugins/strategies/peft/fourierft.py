"""`fourierft`: train a few Fourier coefficients of an addition to each weight.

W' = W + scaling · Re(IDFT2(F)) (Gao et al. 2024, arXiv:2405.03003). W is frozen; `n_frequency` entries of F, at
random positions, train, and the others are zero.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `FourierFTConfig`."""

    name: ClassVar[str] = "fourierft"
    method: ClassVar[str] = "FOURIERFT"

    n_frequency: int = Field(default=1000, ge=1, description="frequencies that train in each layer")
    scaling: float = Field(default=150.0, gt=0, description="scale of the additions")
    init_weights: bool = Field(default=False, description="initialize the coefficients to zero instead of at random")
    random_loc_seed: int = Field(default=777, description="seed of which frequencies train")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
