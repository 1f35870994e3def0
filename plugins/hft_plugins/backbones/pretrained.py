"""Open a transformers model, its tokenizer and its configuration."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from hft_core.errors import ModelError
from hft_plugins.backbones import fit, model_folder, quantization, remote_code
from hft_plugins.backbones.options import BACKBONES, EncoderOptions, backbone_of


@dataclass(frozen=True)
class Opened:
    """A model as it was opened."""

    options: EncoderOptions
    trust_remote_code: bool
    whole: PreTrainedModel
    plain_class: str
    """The auto class that opened it."""
    tokenizer: Any
    saved_config: PretrainedConfig
    """The configuration without what the options change for training."""
    missing: frozenset[str]
    """The weights of `whole` that its files lack, so that they are fresh."""
    pinned: bool = False
    """The configuration or weights differ from the files in what the model computes, so that adapters need a trunk
    saved with them."""


def open_pretrained(options: EncoderOptions, auto_classes: Sequence[Any], *, trust_remote_code: bool) -> Opened:
    """Open `options.model` with the first of `auto_classes` that knows its family.

    Weights are asked for in float32: transformers 5 would keep the checkpoint's own dtype, and AdamW in bfloat16 loses
    small updates. Those that will be quantized are taken as they are, for the sake of memory. Raises `ModelError` when
    the model cannot be opened.
    """
    path = Path(options.model)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    name = str(path.parent) if gguf else options.model
    model_folder.check_files(options.model)
    where: dict[str, Any] = {"revision": options.revision, "trust_remote_code": trust_remote_code, **gguf}
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name, **where)
            quantization.check_method(options.model, config)
            pinned = _pin_attention(config)
            saved_config = copy.deepcopy(config)
            if options.dropout is not None:
                _set_dropout(config, options.dropout)
            trusted = {"trust_remote_code": trust_remote_code}
            auto = next((a for a in auto_classes if remote_code.opens(a, config, **trusted)), None)
            if auto is None:
                wanted = " or ".join(a.__name__ for a in auto_classes)
                raise ModelError(
                    f"model '{options.model}': its type '{config.model_type}' is not one that {wanted} opens"
                )
            if not trust_remote_code:
                kind = auto._model_mapping[type(config)]
                model_folder.check_attention(options.model, options.attn_implementation, config, kind)
            tokenizer = AutoTokenizer.from_pretrained(name, **where)
            extra = {"attn_implementation": options.attn_implementation} if options.attn_implementation else {}
            loading = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # the mismatched ones are told of
            dtype = torch.float32 if options.quantization is None else "auto"
            whole, info = auto.from_pretrained(name, config=config, dtype=dtype, **loading, **where, **extra)
            _check_loaded(options, whole, tokenizer, info)
            quantization.drop_settings(whole, saved_config)
            pinned |= options.dtype == "bf16" and _round(whole)
    except ModelError:
        raise
    except Exception as error:  # each library that reads a part of the folder has errors of its own
        reason = _reason(options.model, error)
        raise ModelError(f"model '{options.model}' cannot be opened: {reason}") from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"model '{options.model}': its tokenizer has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    for settings in (whole.config, saved_config):
        if settings.get_text_config().pad_token_id is None:
            settings.get_text_config().pad_token_id = tokenizer.pad_token_id
    missing = frozenset(info["missing_keys"])
    return Opened(options, trust_remote_code, whole, auto.__name__, tokenizer, saved_config, missing, pinned)


def _reason(model: str, error: Exception) -> str:
    """Say in one line why a model cannot be opened."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return "it comes with code of its own, expected none; read that, and allow it with --trust-remote-code"
    if isinstance(error, UnpicklingError):
        return "its weights are a pickle that holds more than tensors, expected safetensors"
    if "GGMLQuantizationType" in said:
        number = re.search(r"\d+(?=\)? is not a valid)", said)
        return (
            f"its numbers are in a format that the gguf library here does not read (GGML type "
            f"{number[0] if number else 'unknown'}); expected F16, BF16, Q8_0, Q4_K, …"
        )
    return fit.damaged(model) or said[:300]


def _check_loaded(options: EncoderOptions, whole: PreTrainedModel, tokenizer: Any, info: Any) -> None:
    """Raise `ModelError` for weights or a tokenizer that do not belong together; `info`: transformers' own report."""
    fit.check_shapes(options.model, info["mismatched_keys"])
    if info["missing_keys"] and not options.model.endswith(".gguf"):
        fit.restore_tied(options.model, whole, options.revision)
    fit.clear_fresh_biases(whole, info["missing_keys"])
    fit.check_numbers(options.model, whole)
    fit.check_tokenizer(options.model, tokenizer, whole)
    model_folder.check_whole(options.model, whole)


def refuse_other_kinds(model: str, wanted: str) -> None:
    """Raise `ModelError` when another backbone than `wanted` is the one for `model`."""
    found = backbone_of(model)
    if found and found != wanted:
        raise ModelError(f"model '{model}' is {BACKBONES[found]}: open it with '{found}'")


def refuse_incomplete_trunk(model: str, lost: Sequence[str]) -> None:
    """A trunk with random weights would train without complaint and learn little: refuse one that lacks `lost`."""
    if lost:
        raise ModelError(
            f"model '{model}': {len(lost)} trunk weights are missing from its files ({', '.join(lost[:3])}, …): "
            "expected a complete checkpoint"
        )


def _pin_attention(config: PretrainedConfig) -> bool:
    """Let BigBird attend to all positions whatever the length of a text; return whether that is a change.

    It attends to blocks of them in texts that are long enough, and drops that for good at the first batch of short
    ones: its answers would depend on what was asked before.
    """
    if getattr(config, "attention_type", None) != "block_sparse":
        return False
    config.attention_type = "original_full"
    return True


def _round(whole: PreTrainedModel) -> bool:
    """Round the weights to bfloat16; return whether that changed any."""
    changed = False
    for parameter in whole.parameters():
        rounded = parameter.detach().bfloat16().float()
        changed = changed or not torch.equal(rounded, parameter)
        parameter.data = rounded
    return changed


def _set_dropout(config: PretrainedConfig, value: float) -> None:
    for key, old in config.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and (old is None or isinstance(old, int | float)):
            setattr(config, key, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' load report and bars: what is missing is checked here and said in one sentence, and what it
    says of an error may hold control characters of the model's files."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
