"""`pissa`: train the principal singular vectors of each weight, saved as an ordinary LoRA.

W = W' + s·B A, where s·B A is the part of the r largest singular values of W (Meng et al. 2024, arXiv:2404.02948). The
residual W' is frozen; A and B train.
"""

from __future__ import annotations

from typing import ClassVar

from hft_plugins.strategies.peft import lora
from hft_plugins.strategies.peft.svd_initialized import Converted


class Options(lora.Options):
    """The fields of `lora`; the scale is 1 by default, as in the paper."""

    name: ClassVar[str] = "pissa"
    method: ClassVar[str] = "PISSA"
    alpha_by_rank: ClassVar[int] = 1


def build(options: Options) -> Converted:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return Converted(options.configuration(), options.name)
