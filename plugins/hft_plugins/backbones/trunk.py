"""A transformers model taken apart into trunk and heads, and put together again when it is saved.

The head of a family's own class (`BertForSequenceClassification`, …) is that class with a `Passthrough` where the trunk
was: one trunk serves many tasks, each task's logits are those of the plain class, and a saved task opens in the plain
class without hft.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.utils import logging as transformers_logging

from hft_core.backbone import Backbone, FamilyModule, Features, LanguageModel, SequenceModule
from hft_core.errors import ModelError
from hft_plugins.backbones.options import EncoderOptions

TRUNK_FILE, HEAD_FILE, INDEX_FILE = "model.safetensors", "head.safetensors", "model.safetensors.index.json"


class Passthrough(nn.Module):
    """Stands in a plain class where its trunk was: returns the hidden states that it is given as `inputs_embeds`."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """`[batch, seq, hidden]` → the same, with the pooled `[batch, hidden]` where the family has a pooler."""
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=inputs_embeds, pooler_output=pooled)


class _Whole(FamilyModule):
    """A plain class of transformers around a `Passthrough`."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        self.plain_class = plain_class
        self._trunk_parameters = frozenset(id(p) for p in trunk.parameters())

    def plain_state(self, *, tied: bool = False) -> dict[str, Tensor]:
        skipped = frozenset() if tied else self._trunk_parameters
        own = {name: p for name, p in self.whole.named_parameters(remove_duplicate=not tied) if id(p) not in skipped}
        return {**own, **dict(self.whole.named_buffers())}

    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        own, known = self.plain_state(), self.plain_state(tied=True)
        wrong = sorted((set(own) - set(state)) | (set(state) - set(known)))
        if wrong:
            raise ValueError(f"head weights are missing or not known: {', '.join(wrong)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])


class HfLanguageModel(_Whole, LanguageModel):
    """The LM head of a plain class."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module, pretrained: bool) -> None:
        super().__init__(whole, plain_class, trunk)
        self.pretrained = pretrained

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.whole(inputs_embeds=hidden.unsqueeze(0)).logits
        return logits.squeeze(0)


class HfSequenceModule(_Whole, SequenceModule):
    """What a plain class has above its trunk."""

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = self.whole(
            input_ids=features.input_ids, inputs_embeds=features.hidden, attention_mask=features.attention_mask
        ).logits
        return logits


class HfBackbone(Backbone):
    """A trunk opened by transformers."""

    def __init__(
        self,
        whole: PreTrainedModel,
        tokenizer: Any,
        options: EncoderOptions,
        saved_config: PretrainedConfig,
        **facts: Any,
    ) -> None:
        self.tokenizer = tokenizer
        self.config = whole.config
        self.trunk_prefix = whole.base_model_prefix
        self.trunk = whole.base_model
        self.causal: bool = facts["causal"]
        self.source = "" if options.model.endswith(".gguf") else options.model
        self.hidden_size = whole.config.get_text_config().hidden_size
        positions = (
            getattr(whole.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
        )
        self.max_length = int(min(tokenizer.model_max_length, _usable_positions(self.trunk, positions)))
        self._options = options
        self._saved_config = saved_config
        self._trust_remote_code: bool = facts["trust_remote_code"]
        self._language_model: HfLanguageModel | None = None
        if whole is not self.trunk:
            setattr(whole, self.trunk_prefix, Passthrough(None))
            self._language_model = HfLanguageModel(whole, facts["plain_class"], self.trunk, facts["lm_pretrained"])

    trunk_prefix: str = ""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        extra = {"use_cache": False} if self.causal else {}
        hidden: Tensor = self.trunk(**inputs, **extra).last_hidden_state
        return hidden

    @property
    def layers(self) -> Sequence[nn.Module]:
        count = self.config.get_text_config().num_hidden_layers
        for module in self.trunk.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return list(module)
        raise ModelError(
            f"model '{self._options.model}': its {count} layers were not found in {type(self.trunk).__name__}"
        )

    @property
    def language_model(self) -> LanguageModel | None:
        return self._language_model

    def sequence_module(self, plain_class: str, **config: Any) -> SequenceModule | None:
        auto = getattr(transformers, plain_class)
        settings = copy.deepcopy(self.config)
        settings.update(config)
        if type(settings) not in auto._model_mapping:
            return None
        with torch.device("meta"):
            whole = auto.from_config(settings, trust_remote_code=self._trust_remote_code)
        extras = _modules_beyond(whole.base_model, self.trunk)
        if set(extras) - {"pooler"}:
            return None
        setattr(whole, whole.base_model_prefix, Passthrough(extras.get("pooler")))
        whole.to_empty(device="cpu")
        for module in whole.modules():
            if not isinstance(module, Passthrough):
                whole._init_weights(module)
        if "pooler" in extras and self.source:
            self._copy_pooler(extras["pooler"])
        return HfSequenceModule(whole, plain_class, self.trunk)

    def _copy_pooler(self, pooler: nn.Module) -> None:
        """Give the fresh `pooler` the checkpoint's weights, where the checkpoint has them."""
        with _quiet():
            full, info = AutoModel.from_pretrained(
                self.source,
                config=self.config,
                revision=self._options.revision,
                dtype=torch.float32,
                trust_remote_code=self._trust_remote_code,
                output_loading_info=True,
            )
        if not any(key.startswith("pooler.") for key in info["missing_keys"]):
            pooler.load_state_dict(full.pooler.state_dict())

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config(folder, type(self.trunk).__name__, {})
        named = {f"{self.trunk_prefix}.{name}": _plain(tensor) for name, tensor in state.items()}
        save_file(named, folder / TRUNK_FILE, metadata={"format": "pt"})
        self.tokenizer.save_pretrained(folder)

    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        assert isinstance(module, _Whole)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config(folder, type(module.whole).__name__, config)
        save_file(
            {name: _plain(tensor) for name, tensor in state.items()}, folder / HEAD_FILE, metadata={"format": "pt"}
        )
        trunk = trunk_folder / TRUNK_FILE
        _link_or_copy(trunk, folder / "trunk.safetensors")
        names = dict.fromkeys(_tensor_names(trunk), "trunk.safetensors") | dict.fromkeys(state, HEAD_FILE)
        size = trunk.stat().st_size + (folder / HEAD_FILE).stat().st_size
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save_pretrained(folder)

    def load_task(self, folder: Path) -> dict[str, Tensor]:
        return load_file(folder / HEAD_FILE)

    def _write_config(self, folder: Path, architecture: str, settings: Mapping[str, Any]) -> None:
        config = copy.deepcopy(self._saved_config)
        config.update(dict(settings))
        config.architectures = [architecture]
        config.dtype = "float32"
        config.save_pretrained(folder)


def open_pretrained(
    options: EncoderOptions, auto_classes: Sequence[Any], *, causal: bool, trust_remote_code: bool
) -> HfBackbone:
    """Open `options.model` with the first of `auto_classes` that knows its family.

    Weights are asked for in float32: transformers 5 would keep the checkpoint's own dtype, and AdamW in bfloat16 loses
    small updates. Raises `ModelError` when the model cannot be opened.
    """
    path = Path(options.model)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    name = str(path.parent) if gguf else options.model
    where: dict[str, Any] = {"revision": options.revision, "trust_remote_code": trust_remote_code, **gguf}
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(name, **where)
            saved_config = copy.deepcopy(config)
            if options.dropout is not None:
                _set_dropout(config, options.dropout)
            auto = next((a for a in auto_classes if type(config) in a._model_mapping), None)
            if auto is None:
                wanted = " or ".join(a.__name__ for a in auto_classes)
                raise ModelError(
                    f"model '{options.model}': its type '{config.model_type}' is not one that {wanted} opens"
                )
            tokenizer = AutoTokenizer.from_pretrained(name, **where)
            extra = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
            whole, info = auto.from_pretrained(
                name, config=config, dtype=torch.float32, output_loading_info=True, **where, **extra
            )
    except ModelError:
        raise
    except Exception as error:  # each library that reads a part of the folder has errors of its own
        raise ModelError(f"model '{options.model}' cannot be opened: {' '.join(str(error).split())[:300]}") from error
    _refuse_incomplete_trunk(options.model, whole, info["missing_keys"])
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"model '{options.model}': its tokenizer has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    for settings in (whole.config, saved_config):
        if settings.get_text_config().pad_token_id is None:
            settings.get_text_config().pad_token_id = tokenizer.pad_token_id
    head_missing = any(not key.startswith(f"{whole.base_model_prefix}.") for key in info["missing_keys"])
    return HfBackbone(
        whole,
        tokenizer,
        options,
        saved_config,
        causal=causal,
        plain_class=auto.__name__,
        lm_pretrained=not head_missing,
        trust_remote_code=trust_remote_code,
    )


def _refuse_incomplete_trunk(model: str, whole: PreTrainedModel, missing: Sequence[str]) -> None:
    """A trunk with random weights would train without complaint and learn little: refuse it."""
    prefix = "" if whole is whole.base_model else f"{whole.base_model_prefix}."
    lost = sorted(key for key in missing if key.startswith(prefix) and ".pooler." not in f".{key}")
    if lost:
        raise ModelError(
            f"model '{model}': {len(lost)} trunk weights are missing from its files ({', '.join(lost[:3])}, …): "
            "expected a complete checkpoint"
        )


def _modules_beyond(base: nn.Module, trunk: nn.Module) -> dict[str, nn.Module]:
    known = dict(trunk.named_children())
    return {name: child for name, child in base.named_children() if name not in known and child is not None}


def _usable_positions(trunk: nn.Module, positions: int) -> int:
    """RoBERTa's family counts positions from `padding_idx + 1`: its table is that much longer than a text may be."""
    table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions - (padding + 1 if padding is not None else 0)


def _set_dropout(config: PretrainedConfig, value: float) -> None:
    for key, old in config.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and (old is None or isinstance(old, int | float)):
            setattr(config, key, value)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _tensor_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _link_or_copy(source: Path, target: Path) -> None:
    """The trunk is one file however many tasks there are; file systems without hard links get a copy each."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' load report and bars: what is missing is checked here and said in one sentence."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
