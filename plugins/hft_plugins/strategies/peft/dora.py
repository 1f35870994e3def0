"""`dora`: train the direction of each weight by LoRA, and its magnitude for each output.

W' = m · (W + s·B A) / ‖W + s·B A‖, with one norm per output (Liu et al. 2024, arXiv:2402.09353). W is frozen; A, B and
the magnitudes m `[out]`, initialized to ‖W‖, train.
"""

from __future__ import annotations

from typing import ClassVar

from hft_plugins.strategies.peft import lora
from hft_plugins.strategies.peft.injected import Injected


class Options(lora.Options):
    """The fields of `lora`."""

    name: ClassVar[str] = "dora"
    method: ClassVar[str] = "DORA"


def build(options: Options) -> Injected:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Injected(options.configuration(), options.name)
