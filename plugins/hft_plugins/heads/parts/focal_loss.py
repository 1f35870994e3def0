"""Scale a cross-entropy down where the model is right already (focal loss, Lin et al. 2017, arXiv:1708.02002)."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

GAMMA = 2.0
"""The paper's best value."""
GAMMA_FIELD: Any = Field(
    default=None,
    ge=0,
    le=10,
    allow_inf_nan=False,
    description="for loss: focal, the power of (1 - probability) by which a target counts less; 2 when left out",
)


def refuse_odd(loss: str, gamma: float | None, smoothing: float) -> None:
    """Raise `ValueError` for options that the loss has no use for."""
    if loss != "focal" and gamma is not None:
        raise ValueError("'gamma' is for loss: focal")
    if loss == "focal" and smoothing:
        raise ValueError("loss: focal needs targets without label_smoothing: expected one of the two")


def focused(cross_entropy: Tensor, gamma: float | None) -> Tensor:
    """Return (1 - p)^gamma · cross_entropy for each target; the cross-entropy -log p has to be without weights."""
    missed = -torch.expm1(-cross_entropy)  # 1 - p, exact for a p near 1
    # A power below 1 has no derivative at 0.
    return cross_entropy * missed.clamp_min(torch.finfo(missed.dtype).tiny) ** (GAMMA if gamma is None else gamma)
