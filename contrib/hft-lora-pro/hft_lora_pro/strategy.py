"""`lora-pro`: PEFT's LoRA, its gradients adjusted before each step so that the weights follow their full gradient."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer, LoraModel
from pydantic import Field
from torch import Tensor, nn

from hft_core import options
from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_lora_pro import adapter_folder
from hft_lora_pro.closed_form import Pair, XMode, adjust

ADAPTER = "default"


class Options(options.Options):
    """Fields of PEFT's `LoraConfig`, and what LoRA-Pro leaves open."""

    r: int = Field(default=16, ge=1, description="rank of the additions")
    lora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; 2·r when left out")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    use_rslora: bool = Field(default=False, description="scale by alpha/√r instead of alpha/r (arXiv:2312.03732)")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the linear layers to adapt, a regular expression, or 'all-linear'"
    )
    x_mode: XMode = Field(
        default="sylvester",
        description="which of the gradients with the same effect on the weights: those nearest to LoRA's own "
        "(sylvester), or the plain solution (zero)",
    )


class LoraPro(Strategy):
    """One LoRA, shared by all tasks, that learns by the gradients whose effect is nearest to the full gradient.

    The gradients of both factors of each addition are replaced by those of `closed_form.adjust`; clipping and AdamW
    follow as with LoRA. (The paper's algorithm 2 keeps AdamW's moments of each whole weight instead, as full
    fine-tuning does; here they are those of the factors.) The gradient that is followed is the combiner's; where that
    multiplies the components of one gradient by different factors, it is no longer that of a weight, and the nearest to
    it is not defined.

    Source: Wang et al. 2024, arXiv:2407.18242; the additions by PEFT's `LoraConfig`.
    """

    # Twice that of LoRA, as measured (see the README): A's gradient is longest while B is small, and AdamW, which
    # divides by the lengths that it remembers, moves A less afterwards.
    learning_rate = 1e-3
    adapter = True

    def __init__(self, config: LoraConfig, x_mode: XMode) -> None:
        self.config = config
        self.x_mode = x_mode
        self._model: LoraModel | None = None
        self._layers: dict[str, LoraLayer] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` with PEFT's reason when it refuses the configuration on this trunk, and where it would
        adapt anything but linear layers."""
        backbone.trunk.requires_grad_(False)
        try:
            with warnings.catch_warnings():
                # What PEFT uses of transformers is not the user's concern.
                warnings.simplefilter("ignore", FutureWarning)
                model = PeftModel(backbone.trunk, copy.deepcopy(self.config), ADAPTER).base_model
        except Exception as error:  # of many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise PluginError(f"strategy 'lora-pro': PEFT refuses: {reason[:300]}") from error
        layers = {name: layer for name, layer in backbone.trunk.named_modules() if isinstance(layer, LoraLayer)}
        odd = [name for name, layer in layers.items() if not _is_linear(layer)]
        if odd:
            raise PluginError(
                f"strategy 'lora-pro': target_modules must be linear layers; '{odd[0]}' is "
                f"{type(layers[odd[0]].get_base_layer()).__name__}"
            )
        assert isinstance(model, LoraModel), "made from a LoraConfig"
        self._model, self._layers = model, layers

    def gradients_ready(self, backbone: Backbone, step: int) -> None:
        # A layer that no row of the step went through has no gradients.
        pairs = [pair for pair in self.pairs() if pair.a.grad is not None and pair.b.grad is not None]
        if pairs:
            adjust(pairs, self.x_mode)

    def pairs(self) -> list[Pair]:
        """The factors of all additions."""
        return [
            Pair(_factor(layer.lora_A), _factor(layer.lora_B), float(layer.scaling[ADAPTER]))
            for layer in self._layers.values()
        ]

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        assert self._model is not None, "after `apply`"
        self._model.merge_and_unload(safe_merge=True)
        # PEFT leaves its configuration on the module, and would warn of a second adapter in the next stage.
        vars(backbone.trunk).pop("peft_config", None)
        self._model, self._layers = None, {}

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        state = dict(backbone.trunk.state_dict())
        for name in self._layers:
            for inside in [key for key in state if key.startswith(f"{name}.")]:
                tensor, leaf = state.pop(inside), inside.removeprefix(f"{name}.")
                if leaf.startswith("base_layer."):
                    state[f"{name}.{leaf.removeprefix('base_layer.')}"] = tensor
        return state

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        weights = self._weights()
        adapter_folder.write(folder, backbone, self.config, weights, base=base, plain_class=plain_class, head=head)

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the file's weights are not those of the trunk's adapter."""
        given, found = adapter_folder.read(folder, backbone, head)
        weights = self._weights()
        wrong = sorted(given.keys() ^ weights.keys())
        if wrong:
            raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(given[name])
        return found

    def _weights(self) -> dict[str, nn.Parameter]:
        """The factors by the names that they have in an adapter of the trunk alone."""
        return {
            f"{name}.lora_{factor}.weight": weight
            for name, pair in zip(self._layers, self.pairs(), strict=True)
            for factor, weight in (("A", pair.a), ("B", pair.b))
        }


def _is_linear(layer: LoraLayer) -> bool:
    """Whether the addition is the product of two matrices (embeddings have no `lora_A`, convolutions larger ones)."""
    return ADAPTER in layer.lora_A and _factor(layer.lora_A).ndim == 2


def _factor(adapters: nn.ModuleDict) -> nn.Parameter:
    factor = adapters[ADAPTER].weight
    assert isinstance(factor, nn.Parameter)
    return factor


def build(options: Options) -> LoraPro:
    config = LoraConfig(
        r=options.r,
        lora_alpha=options.lora_alpha or 2 * options.r,
        lora_dropout=options.lora_dropout,
        use_rslora=options.use_rslora,
        target_modules=options.target_modules
        if isinstance(options.target_modules, str)
        else list(options.target_modules),
    )
    return LoraPro(config, options.x_mode)
