"""`ia3`: train scales of keys, values and feed-forward activations.

h = l ⊙ (W x), or W (l ⊙ x) for feed-forward layers (Liu et al. 2022, arXiv:2205.05638). W is frozen; the vectors l,
initialized to one, train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import Modules, ShortForm


class Options(ShortForm):
    """The usual fields of PEFT's `IA3Config`."""

    name: ClassVar[str] = "ia3"
    method: ClassVar[str] = "IA3"

    target_modules: Modules | None = Field(
        default=None, description="layers to rescale; PEFT's choice for the model, or all linear ones, when left out"
    )
    feedforward_modules: Modules | None = Field(
        default=None, description="those of them that are rescaled by their input instead of their output"
    )


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
