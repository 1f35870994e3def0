"""`bottleneck`: small feed-forward adapters in every layer of a frozen trunk, shared by all tasks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_plugins.strategies.bottleneck import sublayers
from hft_plugins.strategies.bottleneck.layers import Bottleneck, Place, place, places
from hft_plugins.strategies.bottleneck.options import Options as Options
from hft_plugins.strategies.peft.adapter_folder import on_disk

WEIGHTS_FILE, CONFIG_FILE = "adapter.safetensors", "adapter.json"
HEAD = "head."


class Bottlenecks(Strategy):
    """Bottleneck adapters (Houlsby et al. 2019, arXiv:1902.00751; Pfeiffer et al. 2021, arXiv:2005.00247; He et al.
    2022, arXiv:2110.04366).

    A saved adapter is `adapter.safetensors` and `adapter.json`. Its weights are called by the layer's number and the
    place in it, the same in every family: `layers.0.output.down.weight`.
    """

    # With the 1e-4 of the papers, few rows are learned worse than by `lora` (docs/explanation/defaults.md).
    learning_rate = 1e-3
    adapter = True
    plain = False
    name = "bottleneck"

    def __init__(self, options: Options) -> None:
        self.options = options

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when the trunk's layers do not have an attention and a feed-forward block, or
        `leave_out` names one that there is not, or all of them."""
        backbone.trunk.requires_grad_(False)
        self._insert(backbone)

    def _insert(self, backbone: Backbone) -> None:
        try:
            layers = sublayers.find(backbone)
        except ValueError as error:
            raise PluginError(f"strategy '{self.name}': {error}") from error
        left_out, numbers = set(self.options.leave_out), set(range(len(layers)))
        if not left_out < numbers:
            raise PluginError(
                f"strategy '{self.name}': leave_out is {sorted(left_out)}: expected some of the layers 0 to "
                f"{len(layers) - 1}, not all"
            )
        for layer in (layers[number] for number in sorted(numbers - left_out)):
            for where in self.options.places:
                place(self._adapter(layer.hidden), layer, where, self.options)

    def _adapter(self, hidden: int) -> nn.Module:
        """What stands at one place."""
        return Bottleneck(hidden, self.options)

    def fold(self, backbone: Backbone) -> None:
        """Raises `PluginError`: a non-linearity has no place in a linear layer's weights."""
        raise PluginError(
            f"strategy '{self.name}': its adapters cannot be folded into the trunk: expected it in the last stage, or "
            "a stage that continues with them"
        )

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        added = tuple(f"{name}." for name, module in backbone.trunk.named_modules() if isinstance(module, Place))
        return {name: tensor for name, tensor in backbone.trunk.state_dict().items() if not name.startswith(added)}

    def weights(self, backbone: Backbone, task: str) -> dict[str, Tensor]:
        """What `task` goes through, by the names in a saved adapter."""
        return {
            f"{where}.{name}": tensor
            for where, found in places(backbone)
            for name, tensor in self._weights_at(found.adapter, task).items()
        }

    def _weights_at(self, adapter: Any, task: str) -> Mapping[str, Tensor]:
        return dict(adapter.named_parameters())

    def config(self) -> dict[str, Any]:
        """What `adapter.json` tells of the method."""
        return {"type": self.name, **self.options.model_dump(mode="json")}

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"base_model_name_or_path": base, "task": task, "plain_class": plain_class, **self.config()}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        state = self.weights(backbone, task) | {f"{HEAD}{name}": tensor for name, tensor in head.items()}
        save_file(on_disk(state), folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the file's weights are not those of the trunk's adapters."""
        state = load_file(folder / WEIGHTS_FILE)
        found = {name: state.pop(HEAD + name) for name in head if HEAD + name in state}
        own = self.weights(backbone, task)
        wrong = sorted(own.keys() ^ state.keys())
        if wrong:
            raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        return found


def build(options: Options) -> Bottlenecks:
    return Bottlenecks(options)
