"""`gradvac`: rotate each gradient towards the others, up to a moving average of their cosine similarities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from hft_core.combiner import At
from hft_plugins.combiners.gradient_aggregation import gradients
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import GramianCombiner

EPS = 1e-8
NEAREST = 0.999
"""The largest cosine that a gradient is turned to: turning it onto another one altogether takes an endless step."""


class Options(gradients.Options):
    """Where the gradients are taken, and how fast the usual cosines are forgotten."""

    beta: float = Field(
        default=0.5, ge=0, le=1, description="share of a step's cosine in the moving average; the paper has 0.01"
    )


class GradientVaccine(GramianCombiner):
    """Combine by Σ_i G'_i, where G'_i = G_i + Σ_j a_ij G_j with the least a_ij ≥ 0 that makes cos(G'_i, G_j) ≥ φ_ij.

    The j follow in random order; φ_ij is the moving average of cos(G'_i, G_j).

    torchjd's `GradVac` is not used because it resets the moving averages when the number of tasks in the step changes;
    here those of a pair are kept while one of the two is absent.

    Source: Wang et al. 2021, arXiv:2010.05874, algorithm 1.
    """

    phi: Tensor
    """`[tasks, tasks]` the moving averages; not symmetric, since a gradient may have been turned before."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, beta: float) -> None:
        super().__init__(tasks, at=at)
        self.beta = beta
        self.register_buffer("phi", torch.zeros(len(tasks), len(tasks)))

    def solve(self, gramian: Tensor, scale: Tensor, present: Tensor) -> Tensor:
        gramian = gramian.cpu()  # one number after the other: no work for an accelerator
        pairs = (present.unsqueeze(1), present)
        phi = self.phi[pairs].to(gramian)
        turned = torch.eye(len(gramian), dtype=gramian.dtype)  # row i: gradient i as a sum of the original ones
        for i in range(len(gramian)):
            others = [j for j in range(len(gramian)) if j != i]
            for drawn in torch.randperm(len(others)).tolist():
                j = others[drawn]
                cosine, weight = _turn(turned[i], j, gramian, phi[i, j])
                turned[i, j] += weight
                phi[i, j] += self.beta * (cosine - phi[i, j])
        self.phi[pairs] = phi.to(self.phi)
        return turned.sum(dim=0)


def _turn(mix: Tensor, j: int, gramian: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of the gradient `mix @ gradients` with gradient `j`, and how much of that one to add to it to have
    the cosine `target`; 0 where it is as near already."""
    target = target.clamp(max=NEAREST)
    norm, other = (mix @ gramian @ mix).clamp(min=0).sqrt(), gramian[j, j].sqrt()
    cosine = (mix @ gramian[j]) / (norm * other + EPS)
    if bool(cosine >= target):
        return cosine, torch.zeros_like(cosine)
    sine, target_sine = (1 - cosine**2).clamp(min=0).sqrt(), (1 - target**2).sqrt()
    return cosine, norm * (target * sine - cosine * target_sine) / (other * target_sine + EPS)


def build(options: Options, *, tasks: Sequence[str]) -> GradientVaccine:
    return GradientVaccine(tuple(tasks), at=options.at, beta=options.beta)
