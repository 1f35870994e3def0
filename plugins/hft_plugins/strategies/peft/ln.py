"""`ln`: train copies of the trunk's norms, saved as an adapter.

Zhao et al. 2023, arXiv:2312.11420. All but the weights and biases of the norms is frozen.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import Modules, ShortForm


class Options(ShortForm):
    """The usual fields of PEFT's `LNTuningConfig`."""

    name: ClassVar[str] = "ln"
    method: ClassVar[str] = "LN_TUNING"

    target_modules: Modules | None = Field(default=None, description="norms to train; all of them when left out")


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
