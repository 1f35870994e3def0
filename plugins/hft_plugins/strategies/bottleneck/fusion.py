"""`adapter-fusion`: after a stage of `task-bottleneck`, each task learns to attend over the adapters of all tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import TaskRows
from hft_plugins.strategies.bottleneck import options as bottleneck_options
from hft_plugins.strategies.bottleneck.per_task import TaskBottlenecks, adapters_in, key


class Options(options.Options):
    """Options of `adapter-fusion`."""

    regularization: float = Field(
        default=0.01, ge=0, description="strength of the penalty ‖I − V‖² on each value matrix V"
    )


class Fusion(nn.Module):
    """Attend over the outputs of adapters, for each token separately.

    With x the adapters' input and z_n the output of the n-th: s = softmax_n(x Q · z_n K), the result Σ s_n z_n V.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, hidden, bias=False)
        for matrix in (self.query, self.key):
            nn.init.normal_(matrix.weight, std=0.02)
        with torch.no_grad():
            self.value.weight.fill_(1e-6).fill_diagonal_(1.0)

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """`[batch, seq, hidden]`, and as much for each adapter → the same shape."""
        z = torch.stack(list(outputs), dim=-2)
        # K on the side of the query and V behind the sum: the same numbers, once instead of once an adapter.
        scores = (z * (self.query(x) @ self.key.weight).unsqueeze(-2)).sum(dim=-1)
        mixed = (scores.softmax(dim=-1).unsqueeze(-1) * z).sum(dim=-2)
        fused: Tensor = self.value(mixed)
        return fused

    def distance(self) -> Tensor:
        """Return ‖I − V‖²."""
        weight = self.value.weight
        return (torch.eye(len(weight), dtype=weight.dtype, device=weight.device) - weight).square().sum()


class AdapterFusion(TaskBottlenecks):
    """AdapterFusion (Pfeiffer et al. 2021, arXiv:2005.00247): the adapters that the stage before left in the trunk are
    frozen, and each task of this stage has a fusion at each place, which only its rows go through. A task of an earlier
    stage alone keeps to its own adapter.
    """

    # As in the paper.
    learning_rate = 5e-5
    name = "adapter-fusion"

    def __init__(self, options: Options) -> None:
        super().__init__(bottleneck_options.Options())
        self.regularization = options.regularization
        self._seen: set[str] = set()

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when the trunk has no adapters by task."""
        if not adapters_in(backbone):
            raise PluginError(
                f"strategy '{self.name}': the trunk has no task adapters to fuse: expected a stage with strategy "
                "'task-bottleneck' right before this one"
            )
        self._take(backbone, tasks)
        self.options = self.modules[0].options
        for module in self.modules:
            for task in tasks:
                module.fusions[key(task)] = Fusion(module.hidden)

    def _fusions(self, task: str) -> list[Any]:
        return [module.fusions[key(task)] for module in self.modules]

    def private(self, backbone: Backbone) -> Mapping[str, Sequence[nn.Parameter]]:
        return {task: [p for fusion in self._fusions(task) for p in fusion.parameters()] for task in self.tasks}

    def step_started(self, backbone: Backbone, step: int) -> None:
        self._seen = set()

    def route(self, backbone: Backbone, rows: TaskRows) -> None:
        super().route(backbone, rows)
        self._seen |= {task for task, _ in rows}

    upper = TaskBottlenecks.upper  # it calls `route`

    def penalty(self, backbone: Backbone) -> Tensor | None:
        """Sum the penalties of the tasks in the step; the parameters of the others are not updated."""
        distances = [f.distance() for task in self.tasks if task in self._seen for f in self._fusions(task)]
        return self.regularization * torch.stack(distances).sum() if distances else None

    def config(self) -> dict[str, Any]:
        adapters = self.options.model_dump(mode="json")
        return {"type": self.name, "regularization": self.regularization, "adapters": adapters}


def build(options: Options) -> AdapterFusion:
    return AdapterFusion(options)
