"""The closed forms against least squares and scipy, on matrices drawn at random."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import solve_sylvester
from torch import Tensor, nn

from hft_lora_pro.closed_form import Pair, XMode, adjust

SHAPES = [(9, 7, 3), (6, 11, 4), (12, 5, 1)]
"""Outputs, inputs, rank."""
X_MODES: list[XMode] = ["sylvester", "zero"]


def drawn(outputs: int, inputs: int, rank: int, *, scale: float = 2.0, of_b: float = 0.1) -> tuple[Pair, Tensor]:
    """Factors with the gradients that LoRA has, and the weight's full gradient, in double precision."""
    random = torch.Generator().manual_seed(outputs + 100 * rank)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    pair = Pair(nn.Parameter(normal(rank, inputs) / inputs**0.5), nn.Parameter(of_b * normal(outputs, rank)), scale)
    full = normal(outputs, inputs)
    pair.a.grad, pair.b.grad = scale * pair.b.detach().T @ full, scale * full @ pair.a.detach().T
    return pair, full


def equivalent(pair: Pair) -> Tensor:
    """What a step along both gradients does to the weight, to first order."""
    assert pair.a.grad is not None and pair.b.grad is not None
    return (pair.scale * (pair.b.grad @ pair.a + pair.b @ pair.a.grad)).detach()


def nearest(pair: Pair, full: Tensor) -> Tensor:
    """The nearest to the full gradient of all s·(g_B·A + B·g_A), by least squares over the entries of both."""
    a, b, s = pair.a.detach().numpy(), pair.b.detach().numpy(), pair.scale
    # Of row-major vectors: vec(g_B·A) = (I ⊗ Aᵀ)·vec(g_B) and vec(B·g_A) = (B ⊗ I)·vec(g_A).
    map_to_weight = s * np.hstack([np.kron(np.eye(len(b)), a.T), np.kron(b, np.eye(a.shape[1]))])
    solution, *_ = np.linalg.lstsq(map_to_weight, full.numpy().ravel(), rcond=None)
    return torch.from_numpy(map_to_weight @ solution).view_as(full)


@pytest.mark.parametrize(("shape", "x_mode"), list(itertools.product(SHAPES, X_MODES)))
def test_equals_least_squares(shape: tuple[int, int, int], x_mode: XMode) -> None:
    pair, full = drawn(*shape)
    adjust([pair], x_mode)
    torch.testing.assert_close(equivalent(pair), nearest(pair, full), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_nearer_to_the_full_gradient_than_loras_own_at_its_best_length(shape: tuple[int, int, int]) -> None:
    pair, full = drawn(*shape)
    plain = equivalent(pair)
    of_lora = float((full - plain * (full * plain).sum() / plain.square().sum()).norm())
    adjust([pair])
    of_lora_pro = float((full - equivalent(pair)).norm())
    assert of_lora_pro < 0.99 * of_lora < 0.99 * float(full.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_effect_on_the_weight_does_not_depend_on_x(shape: tuple[int, int, int]) -> None:
    with_x, _ = drawn(*shape)
    without, _ = drawn(*shape)
    adjust([with_x], "sylvester")
    adjust([without], "zero")
    assert not torch.allclose(with_x.b.grad, without.b.grad)
    torch.testing.assert_close(equivalent(with_x), equivalent(without), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_scipys_solution_of_the_sylvester_equation(shape: tuple[int, int, int]) -> None:
    pair, _ = drawn(*shape)
    a, b, s = pair.a.detach().numpy(), pair.b.detach().numpy(), pair.scale
    for_a, for_b = pair.a.grad.numpy(), pair.b.grad.numpy()
    inverse = np.linalg.inv(b.T @ b)
    x = solve_sylvester(b.T @ b, a @ a.T, -inverse @ for_a @ a.T / s**2)
    adjust([pair])
    expected_a = inverse @ for_a / s**2 + x @ a
    outside = np.eye(len(b)) - b @ inverse @ b.T
    expected_b = outside @ for_b @ np.linalg.inv(a @ a.T) / s**2 - b @ x
    np.testing.assert_allclose(pair.a.grad.numpy(), expected_a, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(pair.b.grad.numpy(), expected_b, rtol=1e-7, atol=1e-9)


def test_sylvester_keeps_the_gradients_nearest_to_loras_own() -> None:
    pair, _ = drawn(*SHAPES[0])
    own_a, own_b = pair.a.grad.clone(), pair.b.grad.clone()
    adjust([pair])

    def distance(x: Tensor) -> float:
        changed_a, changed_b = pair.a.grad + x @ pair.a.detach(), pair.b.grad - pair.b.detach() @ x
        return float((changed_a - own_a).square().sum() + (changed_b - own_b).square().sum())

    least = distance(torch.zeros(3, 3, dtype=torch.float64))
    for seed in range(20):
        x = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert distance(1e-2 * x) > least


@pytest.mark.parametrize("x_mode", X_MODES)
def test_before_the_first_step_all_is_left_to_b(x_mode: XMode) -> None:
    pair, full = drawn(*SHAPES[0], of_b=0.0)
    adjust([pair], x_mode)
    assert not pair.a.grad.any()
    torch.testing.assert_close(equivalent(pair), nearest(pair, full), rtol=1e-9, atol=1e-9)


def test_factors_of_less_than_their_rank_are_no_trouble() -> None:
    pair, full = drawn(*SHAPES[0])
    with torch.no_grad():
        pair.b[:, 2] = pair.b[:, 0] - 2 * pair.b[:, 1]
    pair.a.grad = pair.scale * pair.b.detach().T @ full
    adjust([pair])
    torch.testing.assert_close(equivalent(pair), nearest(pair, full), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("of_b", [1.0, 1e-3, 1e-6])
def test_single_precision_is_enough_however_small_b_is(of_b: float) -> None:
    double, full = drawn(64, 48, 8, of_b=of_b)
    pair = Pair(nn.Parameter(double.a.detach().float()), nn.Parameter(double.b.detach().float()), double.scale)
    pair.a.grad, pair.b.grad = double.a.grad.float(), double.b.grad.float()
    adjust([pair])
    torch.testing.assert_close(equivalent(pair).double(), nearest(double, full), rtol=1e-4, atol=1e-4)


def test_several_pairs_at_once_are_adjusted_as_one_by_one() -> None:
    together = [drawn(9, 7, 3)[0], drawn(6, 11, 3)[0]]
    apart = copy.deepcopy(together)
    for pair, other in zip(together, apart, strict=True):
        other.a.grad, other.b.grad = pair.a.grad.clone(), pair.b.grad.clone()
    adjust(together)
    for pair, other in zip(together, apart, strict=True):
        adjust([other])
        torch.testing.assert_close(pair.a.grad, other.a.grad)
        torch.testing.assert_close(pair.b.grad, other.b.grad)
