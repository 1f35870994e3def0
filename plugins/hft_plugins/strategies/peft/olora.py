"""`olora`: train low-rank factors initialized from a QR decomposition of each weight, saved as an ordinary LoRA.

W = W' + s·B A, where B and A are the first r columns of Q and rows of R in the decomposition W = Q R (Büyükakyüz 2024,
arXiv:2406.01775). The residual W' is frozen; A and B train.
"""

from __future__ import annotations

from typing import ClassVar

from hft_plugins.strategies.peft import lora
from hft_plugins.strategies.peft.svd_initialized import Converted


class Options(lora.Options):
    """The fields of `lora`."""

    name: ClassVar[str] = "olora"
    method: ClassVar[str] = "OLORA"


def build(options: Options) -> Converted:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Converted(options.configuration(), options.name)
