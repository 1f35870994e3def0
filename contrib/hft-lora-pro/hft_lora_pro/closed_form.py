"""The gradients of LoRA's two factors whose combined effect on the weight is nearest to the weight's own gradient.

Source: Wang et al. 2024, arXiv:2407.18242, theorems 2.1 and 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

XMode = Literal["sylvester", "zero"]


@dataclass(frozen=True)
class Pair:
    """The factors of one addition `scale * b @ a` to a weight `[out, in]`, with their gradients in `.grad`."""

    a: nn.Parameter
    """`[r, in]`"""
    b: nn.Parameter
    """`[out, r]`"""
    scale: float


@torch.no_grad()
def adjust(pairs: Sequence[Pair], x_mode: XMode = "sylvester") -> None:
    """Put the adjusted gradients in the place of the factors' own; all pairs have the same rank.

    With W the weight, G its gradient, s the scale and G_A = s·Bᵀ·G, G_B = s·G·Aᵀ the gradients that the factors have,

        A.grad = (BᵀB)⁻¹·G_A / s² + X·A
        B.grad = (I − B·(BᵀB)⁻¹·Bᵀ)·G_B·(AAᵀ)⁻¹ / s² − B·X.

    A small step along both changes W by a step along s·(B.grad·A + B·A.grad), which of all matrices of that form is the
    nearest to G, whatever X is: X·A and −B·X cancel out. `sylvester` takes the X that keeps both nearest to G_A and
    G_B: BᵀB·X + X·AAᵀ = −(BᵀB)⁻¹·G_A·Aᵀ / s²; `zero` takes none.

    The inverses are pseudo-inverses: B is 0 before the first step, where A cannot change W and all is left to B.
    """
    inner = _Spectra.of([pair.b.detach().T for pair in pairs])
    outer = _Spectra.of([pair.a.detach() for pair in pairs])
    ready = zip(pairs, inner.inverses(), outer.inverses(), strict=True)
    flat = [_without_x(pair, inner_inverse, outer_inverse) for pair, inner_inverse, outer_inverse in ready]
    for pair, (for_a, for_b) in zip(pairs, flat, strict=True):
        pair.a.grad, pair.b.grad = for_a, for_b
    if x_mode == "zero":
        return
    rest = torch.stack([-for_a @ pair.a.T for pair, (for_a, _) in zip(pairs, flat, strict=True)])
    for pair, x, (for_a, for_b) in zip(pairs, _sylvester(inner, outer, rest), flat, strict=True):
        x = x.to(for_a)
        pair.a.grad, pair.b.grad = for_a + x @ pair.a, for_b - pair.b @ x


def _without_x(pair: Pair, inner_inverse: Tensor, outer_inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Both gradients with X = 0; the inverses `[r, r]` are those of BᵀB and AAᵀ."""
    assert pair.a.grad is not None and pair.b.grad is not None
    inner_inverse, outer_inverse = inner_inverse.to(pair.a.grad), outer_inverse.to(pair.a.grad)
    for_a = inner_inverse @ pair.a.grad / pair.scale**2
    outside = pair.b.grad - pair.b @ (inner_inverse @ (pair.b.T @ pair.b.grad))
    return for_a, outside @ outer_inverse / pair.scale**2


@dataclass(frozen=True)
class _Spectra:
    """The eigenvalues and eigenvectors of M·Mᵀ for several M of `r` rows, in double precision."""

    values: Tensor
    """`[n, r]`, not negative; 0 where they are nothing but the rounding of M."""
    vectors: Tensor
    """`[n, r, r]`"""

    @classmethod
    def of(cls, matrices: Sequence[Tensor]) -> _Spectra:
        # Products square the condition of M, which single precision does not hold.
        precise = [m.to(torch.float64 if m.device.type != "mps" else torch.float32) for m in matrices]
        values, vectors = torch.linalg.eigh(torch.stack([m @ m.T for m in precise]))
        rounding = torch.finfo(torch.float32).eps * max(max(m.shape) for m in matrices)
        smallest = values[:, -1:] * rounding**2
        return cls(torch.where(values > smallest, values, 0.0), vectors)

    def inverses(self) -> Tensor:
        """`[n, r, r]`: the pseudo-inverses."""
        inverted = torch.where(self.values > 0, 1 / self.values, 0.0)
        return self.vectors * inverted.unsqueeze(1) @ self.vectors.mT


def _sylvester(left: _Spectra, right: _Spectra, c: Tensor) -> Tensor:
    """`[n, r, r]`: the X of L·X + X·R = C for symmetric L and R, given by their spectra; 0 where both have none."""
    sums = left.values.unsqueeze(2) + right.values.unsqueeze(1)
    turned = left.vectors.mT @ c.to(left.vectors) @ right.vectors
    return left.vectors @ torch.where(sums > 0, turned / sums, 0.0) @ right.vectors.mT
