"""Inject layers, route rows and save parts, for all LoRA strategies with per-task parts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError, did_you_mean
from hft_core.strategy import Strategy, TaskRows
from hft_plugins.strategies.peft.adapter_folder import PREFIX, on_disk, read_adapter, write_adapter
from hft_plugins.strategies.per_task.grouped_matmul import LowRank, groups_of
from hft_plugins.strategies.per_task.routed_linear import Found, RoutedLinear, Routing, Size, find, routed_layers
from hft_plugins.strategies.selective.layer_depth import layers_below

PARTS_FILE = "parts.safetensors"
"""The exact factors, beside PEFT's file where that holds their product."""


class Options(options.Options):
    """Fields of PEFT's `LoraConfig`."""

    r: int = Field(default=16, ge=1, description="rank of the additions")
    lora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; 2·r when left out")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the linear layers to add to, a regular expression, or 'all-linear'"
    )
    use_rslora: bool = Field(default=False, description="scale by alpha/√r instead of alpha/r (arXiv:2312.03732)")

    def size(self, r: int | None = None, lora_alpha: int | None = None) -> Size:
        """Return the size of a LoRA of rank `r`, or of the rank of all."""
        r = r or self.r
        return Size(r, lora_alpha or self.lora_alpha or 2 * r, self.use_rslora)


class PerTaskLora(Strategy):
    """Train per-task low-rank additions to one frozen trunk, with one forward pass per mixed batch.

    Subclasses name their layer (`layer`), what its shared parts are made with (`settings`), and what a task's own part
    is (`size_of`).
    """

    # As for one LoRA: see `hft_plugins.strategies.peft.injected`.
    learning_rate = 5e-4
    adapter = True
    name: str
    unfoldable = "keeps a part for each task"
    """Why another strategy cannot continue with the trunk."""

    def __init__(self, chosen: Options) -> None:
        self.options = chosen
        self.routing = Routing()
        self._shared_from = ""

    # --- what subclasses say

    def layer(self, found: Found) -> RoutedLinear:
        """Create a layer with fresh shared parts in place of `found`."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return the settings of the shared parts, as JSON values."""
        return {}

    def size_of(self, task: str) -> Size | None:
        """Of the task's own part; None: it has none."""
        return self.options.size()

    def named_tasks(self) -> Collection[str]:
        """Those that options name."""
        return ()

    # --- training

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Add to the trunk's layers, or continue with what an earlier stage of this strategy added.

        Raises `PluginError` when an option names an unknown task, PEFT refuses the layers, or earlier parts are not as
        the options say.
        """
        for task in self.named_tasks():
            if task not in tasks:
                raise PluginError(
                    f"strategy '{self.name}': task_r or task_lora_alpha names '{task}', which is no task of the stage."
                    f"{did_you_mean(task, tasks)}"
                )
        trunk = backbone.trunk
        earlier = routed_layers(trunk)
        for name, layer in earlier.items():
            trunk.set_submodule(name, layer.base_layer)
        found = find(trunk, self.options.target_modules, self.name)
        self._check_earlier(earlier, found, tasks)
        trunk.requires_grad_(False)
        for each in found:
            layer = earlier.get(each.name) or self.layer(each)
            layer.routing, layer.lora_dropout = self.routing, self.options.lora_dropout
            layer.requires_grad_(False)
            layer.shared.requires_grad_(True)
            for task in tasks:
                self._train_part(layer, task)
            trunk.set_submodule(each.name, layer)
        self.common_layers = layers_below(backbone, routed_layers(trunk).values())

    def _train_part(self, layer: RoutedLinear, task: str) -> None:
        size = self.size_of(task)
        if size is not None:
            if layer.part(task) is None:
                layer.add_part(task, size)
            layer.part(task).requires_grad_(True)

    def _check_earlier(self, earlier: Mapping[str, RoutedLinear], found: Sequence[Found], tasks: Sequence[str]) -> None:
        if not earlier:
            return
        names = {each.name for each in found}
        if earlier.keys() != names:
            odd = min(earlier.keys() ^ names)
            raise PluginError(
                f"strategy '{self.name}': target_modules selects {len(names)} layers, but an earlier stage added to "
                f"{len(earlier)} ('{odd}' is in one of both only): expected the same"
            )
        layer = next(iter(earlier.values()))
        pairs: list[tuple[str, Any, Any]] = [(key, layer.settings.get(key), v) for key, v in self.settings().items()]
        for task in tasks:
            part, size = layer.part(task), self.size_of(task)
            if part is not None and size is not None:
                before, now = dataclasses.asdict(part.size), dataclasses.asdict(size)
                pairs += [(f"{key} of task '{task}'", before[key], value) for key, value in now.items()]
        for what, old, new in pairs:
            if old != new:
                raise PluginError(
                    f"strategy '{self.name}': {what} is {new}, but {old} in the stage whose parameters this one "
                    "continues with: expected the same"
                )

    def private(self, backbone: Backbone) -> dict[str, list[nn.Parameter]]:
        found: dict[str, list[nn.Parameter]] = {}
        for layer in routed_layers(backbone.trunk).values():
            for task in layer.tasks():
                found.setdefault(task, []).extend(layer.part(task).parameters())
        return found

    def route(self, backbone: Backbone, rows: TaskRows) -> None:
        self.routing.follow(groups_of(rows))

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        return self._routed_backwards(super().forward(backbone, inputs, rows), backbone, rows)

    def upper(
        self, backbone: Backbone, hidden: Tensor, inputs: Mapping[str, Tensor], rows: TaskRows, depth: int
    ) -> Tensor:
        return self._routed_backwards(super().upper(backbone, hidden, inputs, rows, depth), backbone, rows)

    def _routed_backwards(self, hidden: Tensor, backbone: Backbone, rows: TaskRows) -> Tensor:
        """A checkpointed layer is computed again in the backward pass, maybe after other batches."""
        if hidden.requires_grad:
            hidden.register_hook(lambda _: self.route(backbone, rows))  # type: ignore[no-untyped-call]
        return hidden

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        """Raises `PluginError`: a trunk's layer has one weight, the same for all rows."""
        raise PluginError(
            f"strategy '{self.name}' {self.unfoldable}, which cannot be folded into one trunk: expected it in the last "
            "stage, or the same strategy in the next"
        )

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        layers = routed_layers(backbone.trunk).values()
        added = {id(p) for layer in layers for part in (layer.shared, layer.private) for p in part.parameters()}
        return {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in backbone.trunk.state_dict(keep_vars=True).items()
            if id(tensor) not in added
        }

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        layers = routed_layers(backbone.trunk)
        additions = {name: layer.addition(task) or _nothing(layer) for name, layer in layers.items()}
        weights = {}
        for name, addition in additions.items():
            weights[f"{PREFIX}{name}.lora_A.weight"] = addition.down
            weights[f"{PREFIX}{name}.lora_B.weight"] = addition.up
        config = self.lora_config(layers, task, next(iter(additions.values())))
        config.fan_in_fan_out = any(isinstance(layer.base_layer, Conv1D) for layer in layers.values())
        config.target_modules = sorted(layers)
        write_adapter(folder, backbone, config, weights, base=base, plain_class=plain_class, head=head)
        self.save_parts(layers, task, folder)

    def lora_config(self, layers: Mapping[str, RoutedLinear], task: str, addition: LowRank) -> LoraConfig:
        """PEFT's configuration of what is added for `task`; `addition`: to one of the layers."""
        r = len(addition.down)
        alpha: Any = addition.scaling * r  # PEFT takes fractions as well, other readers of its files may not
        whole = int(alpha) if alpha.is_integer() else alpha
        return LoraConfig(r=r, lora_alpha=whole, lora_dropout=self.options.lora_dropout)

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the files' weights are not those of the trunk's parts, or the shared ones are not
        those of the task that was loaded before."""
        weights, found = read_adapter(folder, backbone, head)
        self.load_parts(routed_layers(backbone.trunk), task, folder, weights)
        return found

    def save_parts(self, layers: Mapping[str, RoutedLinear], task: str, folder: Path) -> None:
        """Write the shared parts and the task's own as they are."""
        state = {f"shared.{name}": tensor for name, tensor in parts_of(layers, None).items()}
        state |= {f"private.{name}": tensor for name, tensor in parts_of(layers, task).items()}
        save_file(on_disk(state), folder / PARTS_FILE, metadata={"settings": json.dumps(self.settings())})

    def load_parts(
        self, layers: Mapping[str, RoutedLinear], task: str, folder: Path, weights: Mapping[str, Tensor]
    ) -> None:
        """The inverse of `save_parts`; `weights`: those of PEFT's file."""
        state = load_file(folder / PARTS_FILE)
        with safe_open(folder / PARTS_FILE, framework="pt") as file:
            self.check_settings(PARTS_FILE, json.loads(file.metadata()["settings"]))
        shared = {n.removeprefix("shared."): t for n, t in state.items() if n.startswith("shared.")}
        self.load_shared(layers, task, shared)
        own = {n.removeprefix("private."): t for n, t in state.items() if n.startswith("private.")}
        fill(parts_of(layers, task), own)

    def check_settings(self, file: str, found: Mapping[str, Any]) -> None:
        """Raise `ValueError` unless a file's shared parts were made with this strategy's settings."""
        if found != self.settings():
            raise ValueError(f"{file} was written with {found}: expected {self.settings()}")

    def load_shared(self, layers: Mapping[str, RoutedLinear], task: str, given: Mapping[str, Tensor]) -> None:
        """Load the shared parts; from the second task on, check that they are the same."""
        current = parts_of(layers, None)
        if not self._shared_from:
            fill(current, given)
            self._shared_from = task
            return
        check_names(current, given)
        if not all(tensor.equal(current[name].to(tensor.device)) for name, tensor in given.items()):
            raise ValueError(f"its shared parts are not those of the task '{self._shared_from}'")


def _nothing(layer: RoutedLinear) -> LowRank:
    """Create an adapter of zeros, for a task without parts: PEFT has none without weights."""
    return LowRank(layer.zeros(1, layer.in_features), layer.zeros(layer.out_features, 1), 1.0)


def parts_of(layers: Mapping[str, RoutedLinear], task: str | None) -> dict[str, Tensor]:
    """Return the parameters of the task's own parts, or the shared ones, by name."""
    parts = {name: layer.shared if task is None else layer.part(task) for name, layer in layers.items()}
    return {f"{name}.{n}": p for name, part in parts.items() if part is not None for n, p in part.named_parameters()}


def check_names(current: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` when a file's weights are not by name those of the trunk's parts."""
    wrong = sorted(current.keys() ^ given.keys())
    if wrong:
        raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")


def fill(current: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Put a file's weights into the trunk's parts. Raises `ValueError` when they do not fit."""
    check_names(current, given)
    for name, tensor in given.items():
        if tensor.shape != current[name].shape:
            raise ValueError(f"{name} is {list(tensor.shape)}: expected {list(current[name].shape)}")
        current[name].data.copy_(tensor)
