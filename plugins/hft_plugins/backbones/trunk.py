"""Split a transformers model into trunk and heads, and join them again when it is saved.

The head of a family's own class (`BertForSequenceClassification`, …) is that class with a `Passthrough` where the trunk
was: one trunk serves many tasks, each task's logits are those of the plain class, and a saved task opens in the plain
class without hft.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqModelOutput

from hft_core.backbone import Backbone, FamilyModule, Features, LanguageModel, SequenceModule
from hft_core.errors import ModelError
from hft_plugins.backbones import attention, generation
from hft_plugins.backbones.pretrained import Opened, quiet, refuse_incomplete_trunk
from hft_plugins.backbones.split import Split

MULTIPLE_CHOICE = "AutoModelForMultipleChoice"
TRUNK_FILE, HEAD_FILE, INDEX_FILE = "model.safetensors", "head.safetensors", "model.safetensors.index.json"


@dataclass
class PassedOn(Seq2SeqModelOutput):
    """What plain classes look for in the output of any trunk, or of a part of one."""

    pooler_output: Tensor | None = None
    hidden_states: Tensor | None = None
    attentions: Tensor | None = None


class Passthrough(nn.Module):
    """Stands in a plain class where its trunk was, or a part of it: returns the hidden states that it is given as
    `inputs_embeds`."""

    weight = torch.empty(0)
    """T5's classes give their embeddings their first values themselves."""

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any) -> PassedOn:
        """`[batch, seq, hidden]` → the same, with the pooled `[batch, hidden]` where the family has a pooler."""
        pooled = self.pooler(inputs_embeds) if self.pooler is not None else None
        return PassedOn(last_hidden_state=inputs_embeds, pooler_output=pooled)


class _Whole(FamilyModule):
    """A plain class of transformers around a `Passthrough`."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        self.plain_class = plain_class
        self._trunk_parameters = frozenset(id(p) for p in trunk.parameters())
        self._shown_as = ["inputs_embeds", *(["decoder_inputs_embeds"] if whole.config.is_encoder_decoder else [])]

    def outputs_of(self, hidden: Tensor, **inputs: Tensor) -> Any:
        """What the plain class gives for a trunk whose hidden states are `hidden`."""
        return self.whole(**inputs, **dict.fromkeys(self._shown_as, hidden))

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
        for name in state.keys() - own.keys():
            if not torch.equal(state[name], known[name]):
                self._untie(name, state[name])

    def _untie(self, name: str, tensor: Tensor) -> None:
        """T5 1.1 has an LM head of its own, but a configuration that ties it where the files lack it, as a trunk's."""
        module, _, attribute = name.rpartition(".")
        setattr(self.whole.get_submodule(module), attribute, nn.Parameter(tensor.clone()))


class HfLanguageModel(_Whole, LanguageModel):
    """The LM head of a plain class."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module, pretrained: bool) -> None:
        super().__init__(whole, plain_class, trunk)
        self.pretrained = pretrained

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.outputs_of(hidden.unsqueeze(0)).logits
        return logits.squeeze(0)


class HfSequenceModule(_Whole, SequenceModule):
    """What a plain class has above its trunk."""

    def forward(self, features: Features) -> Tensor:
        outputs = self.outputs_of(features.hidden, input_ids=features.input_ids, attention_mask=features.attention_mask)
        if "start_logits" in outputs:  # question answering: where the answer starts and ends, `[batch, seq, 2]`
            return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
        logits: Tensor = outputs.logits
        return logits


class HfChoiceModule(HfSequenceModule):
    """What a plain class for multiple choice has above its trunk. That class takes `[batch, choices, seq]`; here each
    choice is a sequence of its own, so that questions may have different numbers of choices: → `[batch, 1]`."""

    def forward(self, features: Features) -> Tensor:
        alone = (features.hidden, features.input_ids, features.attention_mask)
        return super().forward(Features(*(tensor.unsqueeze(1) for tensor in alone)))


class HfBackbone(Backbone):
    """Run, save and generate with a transformers model."""

    def __init__(self, opened: Opened, *, causal: bool, trunk: PreTrainedModel | None = None) -> None:
        """`trunk`: the model inside `opened.whole`, where it is not the one that transformers names so.

        Raises `ModelError` when some of its weights are missing from the files.
        """
        whole, tokenizer = opened.whole, opened.tokenizer
        self._opened = opened
        self.tokenizer = tokenizer
        self.config = whole.config
        self.trunk_prefix = whole.base_model_prefix
        self.trunk = trunk or whole.base_model
        self._parts = frozenset(_parts_in(whole, self.trunk))
        refuse_incomplete_trunk(opened.options.model, [key for key in sorted(opened.missing) if self._is_trunks(key)])
        self.causal = causal
        self.source = "" if opened.options.model.endswith(".gguf") else opened.options.model
        self.hidden_size = whole.config.get_text_config().hidden_size
        positions = _positions(whole.config.get_text_config()) or tokenizer.model_max_length
        self.max_length = int(min(tokenizer.model_max_length, _usable_positions(self.trunk, positions)))
        self._language_model: HfLanguageModel | None = None
        self._without_prefix: set[str] = set()
        if whole is not self.trunk:
            _take_out(whole, self._parts)
            pretrained = all(map(self._is_trunks, opened.missing))
            self._language_model = HfLanguageModel(whole, opened.plain_class, self.trunk, pretrained)
            self._remember_prefix(whole, opened.plain_class)
            self.generates = whole.can_generate()

    trunk_prefix: str = ""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        extra = {"use_cache": False} if self.causal else {}
        hidden: Tensor = self.trunk(**inputs, **extra).last_hidden_state
        return hidden

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
        if type(settings) not in auto._model_mapping:
            return None
        with torch.device("meta"):
            whole = auto.from_config(settings, trust_remote_code=self._opened.trust_remote_code)
        extras = _extras(whole, self.trunk)
        if extras is None or whole.base_model_prefix != self.trunk_prefix:
            return None  # all tasks share one file of the trunk, which names it by one prefix
        _take_out(whole, _parts_in(whole, self.trunk), extras.get("pooler"))
        self._remember_prefix(whole, plain_class)
        whole.to_empty(device="cpu")
        for module in whole.modules():
            if not isinstance(module, Passthrough):
                whole._init_weights(module)
        if "pooler" in extras and self.source:
            self._copy_pooler(extras["pooler"])
        kind = HfChoiceModule if plain_class == MULTIPLE_CHOICE else HfSequenceModule
        return kind(whole, plain_class, self.trunk)

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
        for name, part in _parts_in(whole, self.trunk).items():
            setattr(whole, name, part)
        try:
            yield whole
        finally:
            _take_out(whole, self._parts)

    def _copy_pooler(self, pooler: nn.Module) -> None:
        """Give the fresh `pooler` the checkpoint's weights, where the checkpoint has them."""
        with quiet():
            full, info = AutoModel.from_pretrained(
                self.source,
                config=self.config,
                revision=self._opened.options.revision,
                dtype=torch.float32,
                trust_remote_code=self._opened.trust_remote_code,
                output_loading_info=True,
            )
        if not any(key.startswith("pooler.") for key in info["missing_keys"]):
            pooler.load_state_dict(full.pooler.state_dict())

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config(folder, type(self.trunk).__name__, {})
        prefix = self.prefix_in(self._opened.plain_class)
        once = {
            tensor.data_ptr(): name for name, tensor in reversed(list(state.items()))
        }  # a tied weight has several names
        named = {prefix + name: _plain(tensor) for name, tensor in state.items() if once[tensor.data_ptr()] == name}
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
        if module.whole.can_generate():
            module.whole.generation_config.save_pretrained(folder)
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
        config = copy.deepcopy(self._opened.saved_config)
        config.update(dict(settings))
        config.architectures = [architecture]
        config.dtype = "float32"
        config.save_pretrained(folder)


def _parts_in(whole: PreTrainedModel, trunk: nn.Module) -> dict[str, nn.Module]:
    """Where a plain class holds its trunk: under one name (`bert`), or part by part (T5's `shared`, `encoder` and
    `decoder`)."""
    if whole.base_model is not whole:
        return {whole.base_model_prefix: trunk}
    return dict(trunk.named_children())


def _take_out(whole: PreTrainedModel, parts: Iterable[str], pooler: nn.Module | None = None) -> None:
    for name in parts:
        setattr(whole, name, Passthrough(pooler))


def _extras(whole: PreTrainedModel, trunk: nn.Module) -> dict[str, nn.Module] | None:
    """What a plain class's trunk has beyond `trunk` (a pooler); None where it is a trunk of another kind."""
    known, held = dict(trunk.named_children()), dict(whole.base_model.named_children())
    if not known.keys() - {"pooler"} <= held.keys():
        return None
    extras = {} if whole.base_model is whole else {name: held[name] for name in held if name not in known}
    return extras if extras.keys() <= {"pooler"} else None


def _positions(config: PretrainedConfig) -> int | None:
    """The longest text that the family's position embeddings, or T5's training, allow for; None for no limit."""
    names = ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions")
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _usable_positions(trunk: nn.Module, positions: int) -> int:
    """RoBERTa's family counts positions from `padding_idx + 1`: its table is that much longer than a text may be."""
    table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions - (padding + 1 if padding is not None else 0)


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
