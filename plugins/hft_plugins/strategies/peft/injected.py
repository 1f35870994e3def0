"""Any PEFT method that is injected into the trunk: put in, folded away, saved and loaded in PEFT's own format.

The trunk alone is given to PEFT, so that heads stay trainable; a saved adapter names its modules and weights as PEFT
would on the plain class that has trunk and head together, and PEFT opens it on that class.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, TaskType, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_plugins.strategies.peft import fast_lora
from hft_plugins.strategies.peft.adapter_folder import PREFIX, read_adapter, write_adapter
from hft_plugins.strategies.peft.target_modules import fill_targets

OF_NO_CONCERN = "Failed to load the CUDA extension|Setting boft_n_butterfly_factor|Unsupported layer type"

AUXILIARY_LOSSES = {"kasa_config": "_get_kasa_loss", "monteclora_config": "_get_monteclora_loss"}
"""Losses that PEFT leaves to the training loop, by the field that asks for them (KaSA, arXiv:2412.06071)."""


class Injected(Strategy):
    """One adapter, shared by all tasks."""

    # About ten times full fine-tuning's: "LoRA Without Regret" (Thinking Machines 2025).
    learning_rate = 5e-4
    adapter = True

    def __init__(self, config: PeftConfig, name: str) -> None:
        self.config = config
        self.name = name
        self._model: Any = None
        self._own: dict[str, tuple[nn.Module, str]] = {}
        self._originals: dict[str, Tensor] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` with the reason when PEFT refuses the configuration on this trunk, or the trunk cannot
        be trained that way."""
        trunk = backbone.trunk
        trunk.requires_grad_(False)
        self._own = _owners(trunk)
        copies = _copies(trunk) if _moves_base(self.config) else {}
        try:
            config = copy.deepcopy(self.config)
            fill_targets(config, trunk)
            self._inject(backbone, config)
            self._try_out(backbone)
        except PluginError:
            raise
        except Exception as error:  # each method of PEFT has errors of its own kind
            raise self._refusal(f"PEFT refuses: {_one_line(error)}") from error
        now = self.base_state(backbone)
        self._originals = {n: t for n, t in copies.items() if not torch.equal(t, now[n].detach().cpu())}

    def in_training(self, backbone: Backbone) -> AbstractContextManager[None]:
        return fast_lora.held(backbone.trunk)

    def penalty(self, backbone: Backbone) -> Tensor | None:
        """The auxiliary losses of the method, where it has any."""
        names = [name for field, name in AUXILIARY_LOSSES.items() if getattr(self.config, field, None) is not None]
        losses = [torch.as_tensor(getattr(self._model.base_model, name)()) for name in names]
        return torch.stack(losses).sum() if losses else None

    def state(self) -> dict[str, Tensor]:
        """What belongs to the adapter and does not train: projections and positions drawn at random, for instance."""
        trained = {p.data_ptr() for p in self._model.parameters() if p.requires_grad}
        adapter = get_peft_model_state_dict(self._model)
        return {name: t.detach().clone() for name, t in adapter.items() if t.data_ptr() not in trained}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        set_peft_model_state_dict(self._model, {**get_peft_model_state_dict(self._model), **state})

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        """Raises `PluginError` when the method cannot be merged."""
        try:
            self._model.base_model.merge_and_unload(safe_merge=True)
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            reason = f"PEFT cannot merge it into the trunk, so that no stage can follow: {_one_line(error)}"
            raise self._refusal(reason) from error
        self._forget(backbone)

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        own = {name: getattr(module, leaf) for name, (module, leaf) in self._own.items()}
        return {**own, **self._originals} or super().base_state(backbone)

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        config, adapter = self._saved()
        write_adapter(
            folder,
            backbone,
            config,
            adapter,
            base=base,
            plain_class=plain_class,
            head=head,
            task_type=self._task_type,
            head_prefix=self._head_prefix,
        )

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Raises `ValueError` when the file's weights are not those of the trunk's adapter."""
        given, found = read_adapter(folder, backbone, head, head_prefix=self._head_prefix)
        self._expect_saved(backbone)
        wrong = sorted(given.keys() ^ get_peft_model_state_dict(self._model).keys())
        if wrong:
            raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")
        set_peft_model_state_dict(self._model, given)
        return found

    # --- what the kinds of methods do differently

    _head_prefix = PREFIX
    _task_type: TaskType | None = None
    """What PEFT is to take a plain class for that it has no name for."""

    def _inject(self, backbone: Backbone, config: PeftConfig) -> None:
        with warnings.catch_warnings():
            # What PEFT uses of transformers, and what it says at every use of a method, is not the user's concern.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message=OF_NO_CONCERN)
            self._model = PeftModel(backbone.trunk, config)
        self.config = self._model.peft_config["default"]

    def _saved(self) -> tuple[Any, dict[str, Tensor]]:
        """The configuration and the weights to be saved, by PEFT's names on the trunk alone; each method's
        configuration has fields of its own."""
        config: Any = copy.deepcopy(self.config)
        modules: dict[str, nn.Module] = dict(self._model.base_model.model.named_modules())
        layers = {name: module for name, module in modules.items() if isinstance(module, BaseTunerLayer)}
        whole = sorted(name for name, layer in layers.items() if not _is_partial(name, layer))
        if whole:  # by full names: on a plain class, the pattern might fit the head's layers as well
            config.target_modules = whole
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = [name for name in whole if getattr(layers[name], "is_feedforward", False)]
        return config, get_peft_model_state_dict(self._model)

    def _expect_saved(self, backbone: Backbone) -> None:
        """Make the adapter's parts such that what `_saved` gave fits in."""

    # --- shared by them

    def _try_out(self, backbone: Backbone) -> None:
        """Let one short text through the trunk: what cannot be trained on is refused now and not in the first step."""
        trunk = backbone.trunk
        inside = {id(p) for p in trunk.parameters()}
        trained = [p for p in self._model.parameters() if p.requires_grad]
        if any(id(p) not in inside for p in trained):
            raise self._refusal("it trains parts outside the trunk")
        if not trained:
            raise self._refusal("it trains nothing in this trunk")
        device = trained[0].device
        inputs = {name: ids.to(device) for name, ids in backbone.tokenizer("a text", return_tensors="pt").items()}
        was_training = trunk.training
        trunk.eval()
        try:
            with torch.enable_grad():
                total = self.forward(backbone, inputs, ()).sum()
            gradients = torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else ()
        finally:
            trunk.train(was_training)
        if all(gradient is None for gradient in gradients):
            raise self._refusal("what it adds has no effect in this trunk")

    def _forget(self, backbone: Backbone) -> None:
        # PEFT leaves its configuration on the module, and would warn of a second adapter in the next stage.
        vars(backbone.trunk).pop("peft_config", None)
        self._model, self._own, self._originals = None, {}, {}

    def _refusal(self, reason: str) -> PluginError:
        method = getattr(self.config.peft_type, "value", self.config.peft_type)
        which = f" with method '{method}'" if self.name == "peft" else ""
        return PluginError(f"strategy '{self.name}'{which}: {reason}")


def _owners(trunk: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """By the names of the trunk's state, the module and the attribute that hold each tensor: they stay when PEFT puts
    layers of its own around the module."""
    found = {}
    for name in trunk.state_dict():
        owner, _, leaf = name.rpartition(".")
        found[name] = (trunk.get_submodule(owner), leaf)
    return found


def _copies(trunk: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in trunk.state_dict().items()}


def _is_partial(name: str, layer: nn.Module) -> bool:
    """Whether PEFT put the layer in for some parameters or tokens, which other fields of the configuration name."""
    return hasattr(layer, "parameter_name") or name.endswith(".token_adapter")


def _moves_base(config: Any) -> bool:
    """Whether the method may change the trunk's own weights when it is injected: some initialisations of LoRA do."""
    return isinstance(getattr(config, "init_lora_weights", None), str) or bool(getattr(config, "kasa_config", None))


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
