"""`task-bottleneck`: bottleneck adapters of its own for each task over one frozen trunk, trained in one mixed batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import TaskRows
from hft_plugins.strategies.bottleneck.layers import Bottleneck, places
from hft_plugins.strategies.bottleneck.options import Options as Options
from hft_plugins.strategies.bottleneck.shared import Bottlenecks
from hft_plugins.strategies.selective.layer_depth import layers_below


class TaskAdapters(nn.Module):
    """What stands at one place of a layer: an adapter for each task and, where a later stage has put it there, each
    task's fusion of all adapters. Rows go through what is their task's; 0 is added to rows of a task that has nothing
    here."""

    def __init__(self, hidden: int, options: Options) -> None:
        super().__init__()
        self.hidden = hidden
        self.options = options
        self.rows: TaskRows = ()
        """Whose the rows of the current batch are."""
        self.adapters = nn.ModuleDict()
        self.fusions = nn.ModuleDict()

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, seq, hidden]` → what is to be added to it."""
        added = [self._added(key(task), x[part]) for task, part in self.rows]
        return added[0] if len(added) == 1 else torch.cat(added)

    def _added(self, name: str, x: Tensor) -> Any:
        if name in self.fusions:
            return self.fusions[name](x, [adapter(x) for adapter in self.adapters.values()])
        return self.adapters[name](x) if name in self.adapters else torch.zeros_like(x)

    def weights(self, task: str) -> dict[str, Tensor]:
        """What `task` goes through: its adapter (`down.weight`), or its fusion (`fusion.query.weight`) and all adapters
        (`adapters.TASK.down.weight`)."""
        name = key(task)
        if name in self.fusions:
            fusion = {f"fusion.{inner}": tensor for inner, tensor in self.fusions[name].named_parameters()}
            adapters = {
                f"adapters.{other.removeprefix(_KEY)}.{inner}": tensor
                for other, adapter in self.adapters.items()
                for inner, tensor in adapter.named_parameters()
            }
            return {**fusion, **adapters}
        return dict(self.adapters[name].named_parameters()) if name in self.adapters else {}


_KEY = "task_"


def key(task: str) -> str:
    """A name that a module can have: a task may be called `type` or `train`."""
    return f"{_KEY}{task}"


class TaskBottlenecks(Bottlenecks):
    """As `bottleneck`, with adapters of its own for each task.

    After a stage with the same strategy, tasks that have adapters keep them, and others get new ones.
    """

    name = "task-bottleneck"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.modules: list[TaskAdapters] = []
        """What stands at each place of the trunk."""
        self.tasks: tuple[str, ...] = ()
        """Those of the stage."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` as `bottleneck` does, and when the adapters of a preceding stage have other options."""
        if not adapters_in(backbone):
            self._insert(backbone)
        self._take(backbone, tasks)
        self._check_options(self.modules[0].options)
        for module in self.modules:
            for task in tasks:
                if key(task) not in module.adapters:
                    module.adapters[key(task)] = Bottleneck(module.hidden, self.options)
                module.adapters[key(task)].requires_grad_(True)

    def _take(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Continue with the adapters that are in the trunk; these and the trunk are frozen."""
        backbone.trunk.requires_grad_(False)
        self.modules, self.tasks = adapters_in(backbone), tasks
        self.common_layers = layers_below(backbone, self.modules)

    def _check_options(self, before: Options) -> None:
        for name, value in before:
            here = getattr(self.options, name)
            if value != here:
                raise PluginError(
                    f"strategy '{self.name}': {name} is {here}, but it continues with the adapters of the last stage, "
                    f"where it is {value}: expected the same options"
                )

    def _adapter(self, hidden: int) -> nn.Module:
        return TaskAdapters(hidden, self.options)

    def private(self, backbone: Backbone) -> Mapping[str, Sequence[nn.Parameter]]:
        return {
            task: [p for module in self.modules for p in module.adapters[key(task)].parameters()] for task in self.tasks
        }

    def route(self, backbone: Backbone, rows: TaskRows) -> None:
        for module in self.modules:
            module.rows = rows

    upper = Bottlenecks.upper  # it calls `route`

    def _weights_at(self, adapter: Any, task: str) -> Mapping[str, Tensor]:
        assert isinstance(adapter, TaskAdapters)
        return adapter.weights(task)


def adapters_in(backbone: Backbone) -> list[TaskAdapters]:
    """What stands at the places of a trunk that has adapters by task, the lowest first; empty where it has none."""
    return [found.adapter for _, found in places(backbone) if isinstance(found.adapter, TaskAdapters)]


def build(options: Options) -> TaskBottlenecks:
    return TaskBottlenecks(options)
