"""Compare the tasks' gradients of the shared parameters: cosines, and how often two tasks pull in opposite
directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from hft_core.errors import ModelError
from hft_core.gradients.jacobian import Jacobian
from hft_core.model.hybrid import HybridModel

OUTSIDE = "outside the layers"
"""The group of embeddings, poolers and the like."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two tasks' gradients of the shared parameters."""

    tasks: tuple[str, str]
    cosine: float
    """Mean over the draws."""
    cosine_error: float
    """Its standard error; 0 for a single draw."""
    conflicts: float
    """Share of the draws in which the cosine is negative (a conflict: Yu et al. 2020, arXiv:2001.06782)."""
    by_layer: Mapping[str, float]
    """Mean cosine by layer."""


def layer_groups(model: HybridModel) -> dict[str, list[nn.Parameter]]:
    """Return the shared trainable parameters by layer of the trunk, from the first upwards."""
    try:
        layers = list(model.backbone.layers)
    except ModelError:  # those of this family are not known
        layers = []
    place = {id(parameter): i for i, layer in enumerate(layers) for parameter in layer.parameters()}
    groups: dict[str, list[nn.Parameter]] = {OUTSIDE: [], **{f"layer {i + 1}": [] for i in range(len(layers))}}
    for parameter in model.shared_parameters():
        groups[f"layer {place[id(parameter)] + 1}" if id(parameter) in place else OUTSIDE].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


class Conflicts:
    """Adds up the products of the tasks' gradients over draws."""

    def __init__(self, tasks: Sequence[str], groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self.tasks, self.groups = tuple(tasks), groups
        self._products: list[np.ndarray] = []
        """`[groups, t, t]` by draw."""

    def add(self, gradients: Sequence[Sequence[Tensor]]) -> None:
        """Add a draw: the gradients of each task, by parameter of all groups in their order."""
        products, start = [], 0
        for parameters in self.groups.values():
            jacobian = Jacobian(parameters, len(self.tasks))
            for index, of_task in enumerate(gradients):
                jacobian.add(index, of_task[start : start + len(parameters)])
            products.append(jacobian.products().double().cpu().numpy())
            start += len(parameters)
        self._products.append(np.stack(products))

    def pairs(self) -> list[Pair]:
        """Return what the draws showed, for each pair of tasks."""
        products = np.stack(self._products)
        whole, by_group = _cosines(products.sum(axis=1)), _cosines(products)
        found = []
        for i in range(len(self.tasks)):
            for j in range(i + 1, len(self.tasks)):
                drawn = whole[:, i, j]
                found.append(
                    Pair(
                        tasks=(self.tasks[i], self.tasks[j]),
                        cosine=float(drawn.mean()),
                        cosine_error=float(drawn.std(ddof=1) / len(drawn) ** 0.5) if len(drawn) > 1 else 0.0,
                        conflicts=float((drawn < 0).mean()),
                        by_layer=dict(zip(self.groups, by_group[:, :, i, j].mean(axis=0).tolist(), strict=True)),
                    )
                )
        return found


def _cosines(products: np.ndarray) -> np.ndarray:
    """Return the cosines `[…, t, t]` of vectors with these products; 0 where one is zero."""
    norms = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    scale = norms[..., :, None] * norms[..., None, :]
    cosines = np.zeros_like(products)
    np.divide(products, scale, out=cosines, where=scale > 0)
    return cosines
