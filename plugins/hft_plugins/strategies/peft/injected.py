"""Train the parameters that a PEFT method injects into the trunk; merge, save and load them in PEFT's own format.

PEFT is given the trunk alone, so that heads remain trainable. A saved adapter names its modules and weights as PEFT
would on the transformers class that has trunk and head together, and PEFT opens it on that class.
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

IGNORED_WARNINGS = (
    "Failed to load the CUDA extension|Setting boft_n_butterfly_factor|Unsupported layer type|"
    "Model (has|with) .tie_word_embeddings"  # see `_untie_adapted`
)

AUXILIARY_LOSSES = {"kasa_config": "_get_kasa_loss", "monteclora_config": "_get_monteclora_loss"}
"""Losses that PEFT leaves to the training loop, by the field that asks for them (KaSA, arXiv:2412.06071)."""

OF_THE_ADAPTER = ("gaussian", "eva", "orthogonal")
"""Initializations of PEFT's LoRA that leave the trunk's own weights as they are."""

LEARNING_RATES = {
    "PROMPT_TUNING": 3e-2,  # PEFT's guide to prompt-based methods
    "PREFIX_TUNING": 1e-2,  # PEFT's guide to prefix tuning
    "P_TUNING": 1e-3,  # PEFT's guide to p-tuning for classification; an MLP computes the prompt
    "IA3": 3e-3,  # Liu et al. 2022, arXiv:2205.05638
    "VERA": 4e-3,  # Kopiczko et al. 2023, arXiv:2310.11454, on GLUE
    "ADALORA": 5e-3,  # factors that begin at zero and tiny ones; docs/explanation/defaults.md
    "FOURIERFT": 5e-2,  # Gao et al. 2024, arXiv:2405.03003, on GLUE
}
"""Default learning rates by method, where that of `Injected` does not suit."""


class Injected(Strategy):
    """Train one PEFT adapter, shared by all tasks; the trunk's own parameters are frozen."""

    # About ten times full fine-tuning's: "LoRA Without Regret" (Thinking Machines 2025).
    learning_rate = 5e-4
    adapter = True

    def __init__(self, config: PeftConfig, name: str) -> None:
        """`config`: PEFT's, complete; `name`: the strategy's name in recipes, for messages."""
        self.config = config
        self.name = name
        self.learning_rate = LEARNING_RATES.get(_method_of(config), Injected.learning_rate)
        self._model: Any = None
        self._own: dict[str, tuple[nn.Module, str]] = {}
        self._originals: dict[str, Tensor] = {}

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Inject the adapter. Raises `PluginError` with the reason when PEFT refuses the configuration on this trunk,
        or the adapter gets no gradient."""
        trunk = backbone.trunk
        if backbone.quantization and _changes_base(self.config):
            raise self._refusal(
                f"it begins by changing the trunk's own weights, and those are quantized ({backbone.quantization})"
            )
        trunk.requires_grad_(False)
        self._own = _owners(trunk)
        copies = _copies(trunk) if _changes_base(self.config) else {}
        try:
            config = copy.deepcopy(self.config)
            fill_targets(config, trunk)
            self._inject(backbone, config)
            self._check_gradients(backbone)
        except PluginError:
            raise
        except Exception as error:  # each method of PEFT has errors of its own kind
            raise self._refusal(f"PEFT refuses: {_one_line(error)}") from error
        self.plain = not _adapts_tied_tokens(config, backbone)
        now = self.base_state(backbone)
        self._originals = {n: t for n, t in copies.items() if not torch.equal(t, now[n].detach().cpu())}

    def in_training(self, backbone: Backbone) -> AbstractContextManager[None]:
        return fast_lora.patched(backbone.trunk)

    def penalty(self, backbone: Backbone) -> Tensor | None:
        """Sum the auxiliary losses of the method, if it has any."""
        names = [name for field, name in AUXILIARY_LOSSES.items() if getattr(self.config, field, None) is not None]
        losses = [torch.as_tensor(getattr(self._model.base_model, name)()) for name in names]
        return torch.stack(losses).sum() if losses else None

    def state(self) -> dict[str, Tensor]:
        """Return what belongs to the adapter and is frozen, such as random projections."""
        trained = {p.data_ptr() for p in self._model.parameters() if p.requires_grad}
        adapter = get_peft_model_state_dict(self._model)
        return {name: t.detach().clone() for name, t in adapter.items() if t.data_ptr() not in trained}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        set_peft_model_state_dict(self._model, {**get_peft_model_state_dict(self._model), **state})

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        """Merge the adapter into the trunk's weights. Raises `PluginError` when PEFT cannot merge the method."""
        _untie_adapted(backbone.trunk)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=IGNORED_WARNINGS)
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
        """Load the adapter's weights. Raises `ValueError` when their names are not those of the trunk's adapter."""
        given, found = read_adapter(folder, backbone, head, head_prefix=self._head_prefix)
        self._prepare_loading(backbone)
        wrong = sorted(given.keys() ^ get_peft_model_state_dict(self._model).keys())
        if wrong:
            raise ValueError(f"{len(wrong)} adapter weights are missing or not known: {', '.join(wrong[:3])}, …")
        set_peft_model_state_dict(self._model, given)
        # PEFT renames some families' modules (Laguna's shared experts) as their checkpoints do, and misses these then.
        with torch.no_grad():
            for name, tensor in get_peft_model_state_dict(self._model).items():
                if tensor.shape == given[name].shape and not torch.equal(tensor.cpu(), given[name].to(tensor.dtype)):
                    tensor.copy_(given[name])
        return found

    # --- overridden for other kinds of methods

    _head_prefix = PREFIX
    _task_type: TaskType | None = None
    """PEFT's task type for a class that it has no task type for."""

    def _inject(self, backbone: Backbone, config: PeftConfig) -> None:
        with warnings.catch_warnings():
            # Not the user's concern: deprecations in PEFT's own code, and warnings at every use of some methods.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message=IGNORED_WARNINGS)
            self._model = PeftModel(backbone.trunk, config)
        self.config = self._model.peft_config["default"]

    def _saved(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the configuration (each method's has its own fields) and the weights to save, by PEFT's names on the
        trunk alone."""
        config: Any = copy.deepcopy(self.config)
        modules: dict[str, nn.Module] = dict(self._model.base_model.model.named_modules())
        layers = {name: module for name, module in modules.items() if isinstance(module, BaseTunerLayer)}
        targets = sorted(name for name, layer in layers.items() if not _is_partial(name, layer))
        if targets:  # by full names: on a class with a head, the pattern might fit the head's layers as well
            config.target_modules = targets
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = [name for name in targets if getattr(layers[name], "is_feedforward", False)]
        return config, get_peft_model_state_dict(self._model)

    def _prepare_loading(self, backbone: Backbone) -> None:
        """Give the adapter the shape of what `_saved` returned, before its weights are loaded."""

    # --- shared by all kinds

    def _check_gradients(self, backbone: Backbone) -> None:
        """Raise `PluginError` unless the adapter, and nothing outside the trunk, gets a gradient from one short text: a
        method that cannot be trained is refused now and not in the first step."""
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
        # PEFT leaves its configuration on the module, and would warn about a second adapter in the next stage.
        vars(backbone.trunk).pop("peft_config", None)
        self._model, self._own, self._originals = None, {}, {}

    def _refusal(self, reason: str) -> PluginError:
        which = f" with method '{_method_of(self.config)}'" if self.name == "peft" else ""
        return PluginError(f"strategy '{self.name}'{which}: {reason}")


def _method_of(config: PeftConfig) -> str:
    """Return PEFT's name of the method."""
    return str(getattr(config.peft_type, "value", config.peft_type))


def _owners(trunk: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the module and attribute that hold each tensor of the trunk's state, by name: they remain valid when PEFT
    wraps the module."""
    owners = {}
    for name in trunk.state_dict():
        owner, _, leaf = name.rpartition(".")
        owners[name] = (trunk.get_submodule(owner), leaf)
    return owners


def _adapts_tied_tokens(config: Any, backbone: Backbone) -> bool:
    """Tell whether single tokens of an embedding are trained that an LM head is tied to: on the class with both, PEFT
    would change the LM head as well."""
    head = backbone.language_model
    tokens = getattr(config, "trainable_token_indices", None) or getattr(config, "token_indices", None)
    if not tokens or head is None:
        return False
    own = {id(parameter) for parameter in backbone.trunk.parameters()}
    return any(id(parameter) in own for parameter in head.parameters())


def _untie_adapted(trunk: nn.Module) -> None:
    """Give adapted modules weights of their own where another module of the trunk has the same ones (T5's embeddings of
    encoder and decoder): merged into one tensor, an adapter would change both."""
    holders: dict[nn.Parameter, list[nn.Module]] = {}
    for module in trunk.modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(parameter, []).append(module)
    adapted = [layer.get_base_layer() for layer in trunk.modules() if isinstance(layer, BaseTunerLayer)]
    for module in adapted:
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            if len(holders[parameter]) > 1:
                own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                holders[parameter].remove(module)
                setattr(module, leaf, own)


def _copies(trunk: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in trunk.state_dict().items()}


def _is_partial(name: str, layer: nn.Module) -> bool:
    """Tell whether the layer adapts single parameters or tokens, which other fields of the configuration name."""
    return hasattr(layer, "parameter_name") or name.endswith(".token_adapter")


def _changes_base(config: Any) -> bool:
    """Tell whether injecting may change the trunk's own weights: some initializations of LoRA do."""
    begun = getattr(config, "init_lora_weights", None)
    return (isinstance(begun, str) and begun not in OF_THE_ADAPTER) or bool(getattr(config, "kasa_config", None))


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
