"""Add to a linear layer's output by the task of each row."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional

from hft_core.errors import PluginError
from hft_plugins.strategies.peft.target_modules import ALL_LINEAR, fill_targets
from hft_plugins.strategies.per_task.grouped_matmul import Groups, LowRank, add_low_rank


@dataclass(frozen=True)
class Size:
    """PEFT's three numbers of a LoRA."""

    r: int
    lora_alpha: int
    use_rslora: bool

    @property
    def scaling(self) -> float:
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class Routing:
    """The task of each row of a batch; one object that all layers of a trunk share.

    It holds until the next batch: a checkpointed layer is computed again in the backward pass.
    """

    def __init__(self) -> None:
        self._groups: Groups | None = None

    def follow(self, groups: Groups) -> None:
        self._groups = groups

    def groups(self, rows: int, layer: str) -> Groups:
        """Return the groups of the `rows` rows that `layer` was given.

        Raises `PluginError` when they are not those of the batch; rows of one task only may be any number.
        """
        if self._groups is None:
            raise RuntimeError(f"layer '{layer}' was called before Strategy.route told whose the rows are")
        if len(self._groups) == 1:
            return ((self._groups[0][0], rows),)
        batch_rows = sum(size for _, size in self._groups)
        if batch_rows != rows:
            raise PluginError(
                f"layer '{layer}' was given {rows} rows of a batch of {batch_rows}: expected one that keeps a batch's "
                "rows as they are; leave such layers out with target_modules"
            )
        return self._groups


class LoraPart(nn.Module):
    """One LoRA as PEFT begins it: A uniform (Kaiming), B zero."""

    def __init__(self, layer: RoutedLinear, size: Size) -> None:
        super().__init__()
        self.size = size
        self.lora_A = layer.kaiming(size.r, layer.in_features)
        self.lora_B = layer.zeros(layer.out_features, size.r)

    def low_rank(self) -> LowRank:
        return LowRank(self.lora_A, self.lora_B, self.size.scaling)


class RoutedLinear(nn.Module):
    """A frozen linear layer (`nn.Linear`, GPT-2's `Conv1D`) with additions shared by all tasks (`shared`) and of each
    task alone (`private`). Subclasses say what the parts are and what they add."""

    lora_dropout = 0.0

    def __init__(self, found: Found, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = found.name
        self.in_features, self.out_features = found.in_features, found.out_features
        self.settings = dict(settings)
        """What the shared parts were made with; the same in every stage that continues with them."""
        self.routing = Routing()
        self.base_layer = found.layer
        self.shared: Any = nn.Module()
        self.private = nn.ModuleDict()

    @property
    def weight(self) -> Tensor:
        """The frozen layer's; some families look at its number format."""
        weight: Tensor = self.base_layer.weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias: Tensor | None = self.base_layer.bias
        return bias

    def kaiming(self, rows: int, columns: int) -> nn.Parameter:
        """Create a fresh matrix as `nn.Linear` and PEFT's A begin."""
        parameter = self.zeros(rows, columns)
        nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
        return parameter

    def zeros(self, *shape: int) -> nn.Parameter:
        """Zeros in float32, whatever the trunk's number format, as in PEFT."""
        return nn.Parameter(torch.zeros(shape, device=self.weight.device))

    # --- parts

    def new_part(self, size: Size) -> nn.Module:
        """Create a task's own part."""
        return LoraPart(self, size)

    def add_part(self, task: str, size: Size) -> None:
        """Give `task` a fresh part of its own."""
        self.private[_key(task)] = self.new_part(size)

    def part(self, task: str) -> Any:
        """Return the task's own part; None where it has none."""
        return getattr(self.private, _key(task), None)

    def tasks(self) -> list[str]:
        """Those that have a part of their own."""
        return [key.removeprefix(_KEY) for key in self.private]

    # --- computing

    def addition(self, task: str) -> LowRank | None:
        """Return the addition for `task`, shared parts included; None where there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it adds")

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, …, in]` → `[rows, …, out]`"""
        return self.add(self.base_layer(x), functional.dropout(x, self.lora_dropout, self.training), x)

    def add(self, output: Tensor, dropped: Tensor, x: Tensor) -> Tensor:
        """`output`: what the frozen layer makes of `x`; `dropped`: `x` after dropout."""
        groups = self.routing.groups(len(x), self.name)
        additions = [self.addition(task) for task, _ in groups]
        return add_low_rank(output, dropped, [size for _, size in groups], additions)


_KEY = "task_"


def _key(task: str) -> str:
    """A name that a module can have: a task may be called `type` or `train`."""
    return f"{_KEY}{task}"


@dataclass(frozen=True)
class Found:
    """A linear layer of a trunk."""

    name: str
    layer: Any
    in_features: int
    out_features: int


def find(trunk: nn.Module, target_modules: str | Sequence[str], strategy: str) -> list[Found]:
    """Find the linear layers that PEFT's LoRA would add to; of all (`all-linear`), those that it can add to.

    PEFT itself chooses them: it puts its layers in (on the `meta` device) and takes them out again. Raises
    `PluginError` when it refuses, or chooses layers that are not linear.
    """
    target = target_modules if isinstance(target_modules, str) else list(target_modules)
    try:
        config = LoraConfig(r=1, target_modules=target)
        fill_targets(config, trunk)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says of GPT-2's Conv1D concerns layers that are taken out again
            tuner = LoraModel(trunk, config, "default", low_cpu_mem_usage=True)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise PluginError(f"strategy '{strategy}': PEFT refuses: {' '.join(str(error).split())[:300]}") from error
    chosen = {name: layer for name, layer in trunk.named_modules() if isinstance(layer, BaseTunerLayer)}
    found = [
        Found(name, layer.get_base_layer(), int(layer.in_features or 0), int(layer.out_features or 0))
        for name, layer in chosen.items()
        if isinstance(layer, PeftLinear)
    ]
    tuner.unload()
    # PEFT leaves its configuration on the module, and would warn of a second adapter later.
    vars(trunk).pop("peft_config", None)
    other = sorted(chosen.keys() - {each.name for each in found})
    if (
        other and target != ALL_LINEAR
    ):  # among all linear layers, PEFT counts the experts that Mixtral has in one tensor
        kind = type(chosen[other[0]].get_base_layer()).__name__
        raise PluginError(
            f"strategy '{strategy}': target_modules holds '{other[0]}', which is {kind}: expected linear layers only"
        )
    return found


def routed_layers(trunk: nn.Module) -> dict[str, RoutedLinear]:
    """Return the layers with additions, by name."""
    return {name: layer for name, layer in trunk.named_modules() if isinstance(layer, RoutedLinear)}
