"""Options of the transformers backbones, and which of them opens a model; imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hft_core.errors import ModelError
from hft_core.options import BackboneOptions


class EncoderOptions(BackboneOptions):
    """How a transformers model is opened."""

    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="attention kernel; transformers' own choice when left out"
    )
    dtype: Literal["auto", "bf16"] = Field(
        default="auto",
        description="bf16 rounds the weights to bfloat16 when the model is opened, so that what stays frozen takes two "
        "bytes a number while it trains under bfloat16; auto takes them as the files have them",
    )
    quantization: Literal["nf4", "int8"] | None = Field(
        default=None,
        description="store the frozen weights of the trunk's linear layers in four bits (nf4: needs the extra "
        "'quantization') or eight (int8); for strategies that save an adapter",
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="value of every dropout in the model's configuration while training"
    )

    @model_validator(mode="after")
    def _one_format(self) -> EncoderOptions:
        if self.quantization is None:
            return self
        if self.dtype != "auto":
            raise ValueError("dtype and quantization are two formats for the same weights: leave one of them out")
        if self.model.endswith(".gguf"):
            raise ValueError(
                "quantization takes a model folder or hub id, by whose name an adapter finds its base weights; found a "
                "GGUF file"
            )
        return self


class DecoderOptions(EncoderOptions):
    """How a transformers decoder is opened."""

    packing: bool = Field(default=False, description="pack the rows of a batch end to end, without padding")


class Seq2SeqOptions(EncoderOptions):
    """How a transformers encoder-decoder is opened."""


BACKBONES = {
    "hf-encoder": "a bidirectional encoder",
    "hf-decoder": "an autoregressive decoder",
    "hf-seq2seq": "an encoder-decoder",
}


RECORD = "backbone.json"
"""Records in a saved trunk which backbone it belongs to, so that reopening does not guess."""


def backbone_of(model: str) -> str:
    """Return the backbone that opens the folder, file or hub id `model`; empty for none."""
    if model.endswith(".gguf"):
        return "hf-decoder" if Path(model).is_file() else ""
    config = _config(model)
    if config is None:
        return ""
    recorded = _recorded(model)
    if recorded:
        return recorded
    if config.get("is_encoder_decoder", False):
        return "hf-seq2seq"
    return "hf-decoder" if _is_decoder(config) else "hf-encoder"


def record_backbone(folder: Path, backbone: str) -> None:
    """Record which backbone opens the model that was saved in `folder`."""
    (folder / RECORD).write_text(json.dumps({"type": backbone}) + "\n", encoding="utf-8")


def _recorded(model: str) -> str:
    """Return what `record_backbone` recorded; empty without a record."""
    try:
        record = json.loads((Path(model) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    recorded = record.get("type") if isinstance(record, dict) else None
    return recorded if recorded in BACKBONES else ""


def opens_encoder(model: str) -> bool:
    """Tell whether `model` is a folder or hub id with a bidirectional encoder."""
    return backbone_of(model) == "hf-encoder"


def opens_decoder(model: str) -> bool:
    """Tell whether `model` is a GGUF file, or a folder or hub id with an autoregressive decoder."""
    return backbone_of(model) == "hf-decoder"


def opens_seq2seq(model: str) -> bool:
    """Tell whether `model` is a folder or hub id with an encoder-decoder."""
    return backbone_of(model) == "hf-seq2seq"


def _is_decoder(config: dict[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    names = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    kind = config.get("model_type")
    if any(name.endswith("ForMaskedLM") for name in names):
        return False
    if kind in CAUSAL and kind in MASKED:  # BERT, XLM: the configuration says whether positions see later ones
        return bool(config.get("is_decoder") or config.get("causal"))
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return kind not in MASKED or kind in CAUSAL
    auto_map = config.get("auto_map")
    if isinstance(auto_map, dict) and "AutoModelForCausalLM" in auto_map:
        return "AutoModelForMaskedLM" not in auto_map
    return kind in CAUSAL and kind not in MASKED


def _config(model: str) -> dict[str, Any] | None:
    """The model's `config.json`, from a folder, or from the hub (or its cache) for anything else; None without one.

    Raises `ModelError` where it cannot be read.
    """
    path = Path(model) / "config.json"
    if not Path(model).exists():
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(model, "config.json", _raise_exceptions_for_missing_entries=False)
        except OSError:
            return None
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return config
