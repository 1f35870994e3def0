from __future__ import annotations

import pytest
import torch
from torch import nn

from hft_core.analysis.affinity import best_groups
from hft_core.analysis.conflicts import Conflicts


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in shapes]


def test_cosines_are_those_of_the_whole_gradients_and_of_each_layer() -> None:
    groups = {"layer 1": parameters((2, 3), (3,)), "layer 2": parameters((4,))}
    generator = torch.Generator().manual_seed(0)
    shapes = [p.shape for group in groups.values() for p in group]
    draws = [[[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)] for _ in range(5)]
    conflicts = Conflicts(["a", "b", "c"], groups)
    for gradients in draws:
        conflicts.add(gradients)
    pairs = {pair.tasks: pair for pair in conflicts.pairs()}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    flat = [[torch.cat([g.flatten() for g in of_task]) for of_task in gradients] for gradients in draws]
    told = torch.stack([torch.cosine_similarity(each[0], each[2], dim=0) for each in flat])
    pair = pairs["a", "c"]
    assert pair.cosine == pytest.approx(float(told.mean()), abs=1e-6)
    assert pair.cosine_error == pytest.approx(float(told.std() / 5**0.5), abs=1e-6)
    assert pair.conflicts == (told < 0).tolist().count(True) / 5
    first = torch.stack([torch.cosine_similarity(each[0][:9], each[2][:9], dim=0) for each in flat])
    assert pair.by_layer["layer 1"] == pytest.approx(float(first.mean()), abs=1e-6)


def test_a_task_without_a_gradient_conflicts_with_none() -> None:
    conflicts = Conflicts(["a", "b"], {"layer 1": parameters((3,))})
    conflicts.add([[torch.ones(3)], [torch.zeros(3)]])
    (pair,) = conflicts.pairs()
    assert (pair.cosine, pair.cosine_error, pair.conflicts) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("affinity", "groups"),
    [
        ([[0.1, 0.2, -0.1], [0.2, 0.1, -0.1], [-0.1, -0.1, 0.1]], [["a", "b"], ["c"]]),
        ([[0.1, -0.2, -0.1], [-0.2, 0.1, -0.1], [-0.1, -0.1, 0.1]], [["a"], ["b"], ["c"]]),
        ([[0.1, 0.2, 0.2], [0.2, 0.1, 0.2], [0.2, 0.2, 0.1]], [["a", "b", "c"]]),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [["a", "b", "c"]]),
        # A step on c helps a; one on a harms c less than that.
        ([[0.1, -0.3, -0.1], [-0.3, 0.1, -0.3], [0.3, -0.3, 0.1]], [["a", "c"], ["b"]]),
    ],
)
def test_tasks_that_help_each_other_are_grouped(affinity: list[list[float]], groups: list[list[str]]) -> None:
    found = best_groups(["a", "b", "c"], affinity)
    assert sorted(sorted(group) for group in found) == groups
