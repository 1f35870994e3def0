"""Split a transformers model into trunk and heads, and join them again when it is saved."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from hft_core.backbone import Backbone, FamilyModule, LanguageModel, PooledOutput, SequenceModule
from hft_core.errors import ModelError
from hft_plugins.backbones import (
    attention,
    behavior,
    generation,
    quantized_linear,
    remote_code,
    saved_model,
    sentence_encoder,
)
from hft_plugins.backbones.options import record_backbone
from hft_plugins.backbones.plain_class import (
    MULTIPLE_CHOICE,
    HfChoiceModule,
    HfLanguageModel,
    HfSequenceModule,
    Whole,
)
from hft_plugins.backbones.pretrained import Opened, quiet, refuse_incomplete_trunk
from hft_plugins.backbones.split import Split
from hft_plugins.backbones.standin import Passthrough, parts_in, pooler_of, remove_pooler, take_out


class HfBackbone(Backbone):
    """Run, save and generate with a transformers model."""

    read_input = "input_ids"
    """The input whose tokens the hidden states belong to."""

    def __init__(self, opened: Opened, kind: str, trunk: PreTrainedModel | None = None) -> None:
        """`kind`: the plugin's name; `trunk`: the model inside `opened.whole`, where transformers does not name it so.

        Raises `ModelError` when some of its weights are missing from the files, or it does not compute one vector a
        token.
        """
        whole = opened.whole
        self._opened = opened
        self.kind = kind
        self.tokenizer = opened.tokenizer
        self.config = whole.config
        self.trunk_prefix = whole.base_model_prefix
        self.trunk = trunk or whole.base_model
        self._pooler_state = remove_pooler(self.trunk) if whole is not self.trunk else {}
        self._parts = parts_in(whole, self.trunk)
        refuse_incomplete_trunk(opened.options.model, [key for key in sorted(opened.missing) if self._is_trunks(key)])
        model, revision = opened.options.model, opened.options.revision
        self.source = "" if model.endswith(".gguf") or opened.pinned else model
        self.pooling = None if model.endswith(".gguf") else sentence_encoder.pooling_of(model, revision)
        if opened.options.quantization:
            self.quantization = opened.options.quantization
            quantized_linear.quantize(self.trunk, opened.options.quantization, model)
            whole.float()  # what is not quantized, and the LM head
        self._language_model: HfLanguageModel | None = None
        self._without_prefix: set[str] = set()
        self.causal = kind != "hf-encoder"
        self._measure()
        self._set_lengths()
        if whole is not self.trunk:
            self._take_out_language_model()

    def _measure(self) -> None:
        """Find out how the trunk behaves. Raises `ModelError` where it does not compute one vector a token."""
        self.behavior = behavior.measure(
            self.forward,
            self.trunk,
            self.tokenizer,
            model=self._opened.options.model,
            causal=self.causal,
            reads=self.read_input,
        )
        self.causal, self.hidden_size = self.behavior.causal, self.behavior.width
        names = self.tokenizer.model_input_names
        if "token_type_ids" in names and not self.behavior.takes_segments and not self.encoder_decoder:
            # RoBERTa has one segment, whatever its tokenizer gives; the saved tokenizer is to give none either.
            kept = [name for name in names if name != "token_type_ids"]
            self.tokenizer.model_input_names = self.tokenizer.init_kwargs["model_input_names"] = kept

    def _set_lengths(self) -> None:
        positions = behavior.position_limit(self.config.get_text_config())
        if positions is not None:
            positions = _usable_positions(self.trunk, positions)
        limits = [limit for limit in (positions, behavior.limit_of(self.tokenizer.model_max_length)) if limit]
        self.max_length = min(limits, default=behavior.NO_LIMIT)
        self.default_length = 0 if limits else behavior.DEFAULT_LENGTH

    def _take_out_language_model(self) -> None:
        """Put a stand-in where the plain class has the trunk. Without an LM head where its logits are others then."""
        whole, plain_class = self._opened.whole, self._opened.plain_class
        trial = behavior.LogitsTrial(whole, self.tokenizer)
        take_out(whole, self._parts)
        pretrained = all(map(self._is_trunks, self._opened.missing))
        module = HfLanguageModel(whole, plain_class, self.trunk, pretrained)
        self._remember_prefix(whole, plain_class)
        if trial.equal_to(lambda inputs: module(self.forward(inputs)[0])):
            self._language_model = module
            self.generates = whole.can_generate() and self.causal

    trunk_prefix: str = ""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        extra = {"use_cache": False} if self._takes_use_cache else {}
        hidden: Tensor = self.trunk(**inputs, **extra).last_hidden_state
        return hidden

    @cached_property
    def _takes_use_cache(self) -> bool:
        """Encoders that may be decoders (BERT) have a cache only as such, which the configuration says."""
        return self.kind != "hf-encoder" and "use_cache" in inspect.signature(self.trunk.forward).parameters

    def in_training(self) -> AbstractContextManager[None]:
        return attention.patched(self.trunk)

    splits = True

    def lower(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        return self._split.lower(inputs, depth)

    def upper(self, hidden: Tensor, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        return self._split.upper(hidden, inputs, depth)

    @cached_property
    def _split(self) -> Split:
        return Split(self._stack, self.forward)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return list(self._stack)

    @property
    def _stack(self) -> nn.ModuleList:
        count = self.config.get_text_config().num_hidden_layers
        for module in self.trunk.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
        raise ModelError(
            f"model '{self._opened.options.model}': its {count} layers were not found in {type(self.trunk).__name__}"
        )

    @property
    def language_model(self) -> LanguageModel | None:
        return self._language_model

    def sequence_module(self, plain_class: str, **config: Any) -> SequenceModule | None:
        auto = getattr(transformers, plain_class)
        settings = copy.deepcopy(self.config)
        settings.update(config)
        trusted = self._opened.trust_remote_code
        if not remote_code.opens(auto, settings, trust_remote_code=trusted):
            return None
        with torch.device("meta"):
            whole = auto.from_config(settings, trust_remote_code=trusted)
        extras = pooler_of(whole, self.trunk)
        if extras is None or whole.base_model_prefix != self.trunk_prefix:
            return None  # all tasks share one file of the trunk, which names it by one prefix
        take_out(whole, parts_in(whole, self.trunk), extras)
        whole.to_empty(device="cpu")
        for module in whole.modules():
            if not isinstance(module, Passthrough):
                whole._init_weights(module)
        kind = HfChoiceModule if plain_class == MULTIPLE_CHOICE else HfSequenceModule
        made = kind(whole, plain_class, self.trunk)
        made.pooler_is_pretrained = "pooler" in extras and self._copy_pooler(extras["pooler"])
        if not self._fits(made):
            return None
        self._remember_prefix(whole, plain_class)
        return made

    def _fits(self, module: HfSequenceModule) -> bool:
        """Tell whether the plain class computes on this trunk's hidden states what it computes alone, and how."""
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            side = behavior.padding_side(module, self.hidden_size, self.tokenizer)
            if side == "left":
                module.pads = side
            module.takes_unequal_ends = behavior.takes_unequal_ends(module, self.hidden_size, self.tokenizer)
        module.train()
        return side is not None and not module.has_extra_inputs

    def prefix_in(self, plain_class: str) -> str:
        return "" if plain_class in self._without_prefix else super().prefix_in(plain_class)

    def _remember_prefix(self, whole: PreTrainedModel, plain_class: str) -> None:
        if whole.base_model is whole:
            self._without_prefix.add(plain_class)

    def _is_trunks(self, key: str) -> bool:
        """Whether a weight of the whole model is one of the trunk; its pooler does not count."""
        return key.partition(".")[0] in self._parts and ".pooler." not in f".{key}"

    def generate(self, inputs: Mapping[str, Tensor], *, max_new_tokens: int, seed: int = 0, **settings: Any) -> Tensor:
        """As transformers' `generate` of the plain class; nothing is written beyond the longest text it takes."""
        if self._language_model is None or not self.generates:
            return super().generate(inputs, max_new_tokens=max_new_tokens, seed=seed, **settings)
        room = self.max_target_length if self.encoder_decoder else self.max_length - inputs["input_ids"].shape[1]
        limit, pad = min(max_new_tokens, room), self.tokenizer.pad_token_id
        with self._put_together(self._language_model.whole) as whole:
            return generation.generate(whole, inputs, pad=pad, seed=seed, max_new_tokens=limit, **settings)

    @contextmanager
    def _put_together(self, whole: PreTrainedModel) -> Iterator[PreTrainedModel]:
        """The plain class with the trunk as it is now (a strategy's parts included) in its place."""
        for name, part in parts_in(whole, self.trunk).items():
            setattr(whole, name, part)
        try:
            yield whole
        finally:
            take_out(whole, self._parts)

    def _copy_pooler(self, pooler: nn.Module) -> bool:
        """Give the fresh `pooler` the checkpoint's weights; return whether the checkpoint has them."""
        state = self._pooler_state or self._checkpoint_pooler()
        if state:
            pooler.load_state_dict({name.removeprefix("pooler."): tensor for name, tensor in state.items()})
        return bool(state)

    def _checkpoint_pooler(self) -> dict[str, Tensor]:
        if self._opened.options.model.endswith(".gguf") or not remote_code.opens(
            AutoModel, self.config, trust_remote_code=self._opened.trust_remote_code
        ):
            return {}
        with quiet():
            full, info = AutoModel.from_pretrained(
                self._opened.options.model,
                config=self.config,
                revision=self._opened.options.revision,
                dtype=torch.float32,
                trust_remote_code=self._opened.trust_remote_code,
                output_loading_info=True,
            )
        if any(key.startswith("pooler.") for key in info["missing_keys"]):
            return {}
        return {name: tensor for name, tensor in full.state_dict().items() if name.startswith("pooler.")}

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        prefix = self.prefix_in(self._opened.plain_class)
        saved_model.write_trunk(folder, self._opened, type(self.trunk).__name__, state, prefix)
        record_backbone(folder, self.kind)

    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        assert isinstance(module, Whole)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**config, **saved_model.untied_setting(module.whole, state)}
        saved_model.write_config(folder, self._opened, type(module.whole).__name__, settings)
        if module.whole.can_generate():
            module.whole.generation_config.save_pretrained(folder)
        saved_model.write_head(folder, trunk_folder, state)
        tokenizer = copy.deepcopy(self.tokenizer)
        if isinstance(module, HfSequenceModule) and module.pads == "left":
            tokenizer.padding_side = "left"
        tokenizer.save_pretrained(folder)

    @property
    def saves_pooled(self) -> bool:  # type: ignore[override]
        return not self.encoder_decoder  # sentence-transformers would take its encoder

    def save_pooled(self, folder: Path, output: PooledOutput, *, max_length: int, trunk_folder: Path | None) -> None:
        if trunk_folder is not None:
            saved_model.link_trunk(folder, trunk_folder)
        sentence_encoder.write_modules(folder, output, hidden_size=self.hidden_size, max_length=max_length)

    def load_task(self, folder: Path) -> dict[str, Tensor]:
        return saved_model.read_head(folder)


def _usable_positions(trunk: nn.Module, positions: int) -> int:
    """RoBERTa's family counts positions from `padding_idx + 1`: its table is that much longer than a text may be."""
    table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions - (padding + 1 if padding is not None else 0)
