"""`randlora`: train scales of random bases, for additions of full rank.

h = W x + s · Σ_j B_j Λ_j A Γ_j x (Albert et al. 2025, arXiv:2502.00987); PEFT transposes the
sum for layers with fewer outputs than inputs. W and the random A, B_j are frozen; the diagonals Λ_j and Γ_j train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import LinearLayersOptions


class Options(LinearLayersOptions):
    """The usual fields of PEFT's `RandLoraConfig`."""

    name: ClassVar[str] = "randlora"
    method: ClassVar[str] = "RANDLORA"

    r: int = Field(default=32, ge=1, description="rank of each random basis; a lower one means more of them")
    randlora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; PEFT's when left out")
    randlora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    projection_prng_key: int = Field(default=0, description="seed of the random bases")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
