"""Refuse models that need files or models outside their folder, or code from the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from hft_core.errors import ModelError

MOST, FACTOR = 16_384, 16
"""A size may be this, as parts that a text model leaves out have sizes too, and this many times the largest side of a
weight: families count some sizes in other units."""
_SIZE = re.compile(
    r"^(?:num_.*layers|num_.*heads|n_layers?|n_heads?|.*_layers|vocab_size|.*hidden_size|.*_dim|d_model|d_ff|d_kv|n_embd"
    r"|n_inner|.*intermediate_size|.*embedding_size|type_vocab_size|num_labels|num_.*experts)$"
)
_POSITIONS = re.compile(r"(?:^|\.)(?:max_.*positions?|max_position_embeddings|n_positions|n_ctx)$")
"""Sizes of a table where positions are learned, and a number that may be huge where they are computed."""
ADAPTER_FILE = "adapter_config.json"
COMES_WITH_TORCH = ("eager", "sdpa", "flex_attention")
INSTALLED: Mapping[str, Callable[[], bool]] = {
    "flash_attention_2": is_flash_attn_2_available,
    "flash_attention_3": is_flash_attn_3_available,
}


def check_files(model: str) -> None:
    """Raise `ModelError` where the folder `model` leads out of itself, by an adapter, which names another model, or by
    a list of weight files that lie elsewhere; and where files on such a list are missing."""
    if (Path(model) / ADAPTER_FILE).exists():
        raise ModelError(
            f"model '{model}' holds an adapter ({ADAPTER_FILE}), expected a whole model: name its base model, or merge "
            "the adapter into that"
        )
    check_sizes(model)
    for index in sorted(Path(model).glob("*.index.json")):
        names = list(dict.fromkeys(_files_in(index)))
        for name in names:
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise ModelError(f"{index}: names the weight file {name!r}, expected one in the folder itself")
        missing = [name for name in names if not (index.parent / name).is_file()]
        if missing and not _has_other_weights(index):
            raise ModelError(
                f"{index}: {len(missing)} of its {len(names)} weight files are missing ({', '.join(missing[:3])}"
                f"{', …' if len(missing) > 3 else ''}); expected all of them in the folder"
            )


def _has_other_weights(index: Path) -> bool:
    """Tell whether the folder has weights that are opened instead of those on the list."""
    whole = index.with_name(index.name.removesuffix(".index.json"))
    safetensors = index.with_name("model.safetensors")
    return whole.is_file() or (index.name.startswith("pytorch_model") and safetensors.is_file())


def check_sizes(model: str) -> None:
    """Raise `ModelError` where the folder's `config.json` says sizes far beyond those of its weights: a million layers
    would be built, and an embedding of terabytes allocated, before a weight could be found missing."""
    weights = _shapes(Path(model))
    largest = max(len(weights), *(side for shape in weights.values() for side in shape)) if weights else 0
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # told by who reads it
        return
    learned = any("position" in name or "wpe" in name for name in weights)
    for name, value in _sizes(config, ""):
        if largest and value > max(MOST, FACTOR * largest) and (learned or not _POSITIONS.search(name)):
            raise ModelError(
                f"{Path(model) / 'config.json'}: {name} is {value}, but none of the model's weights has a side above "
                f"{largest:,}, nor is their number; expected the configuration that belongs to them"
            )


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the weights in a folder's files by name; none where the files are of a kind that does not
    say."""
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as weights:
                shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):  # told by who reads it
            return {}
    return shapes


def _sizes(config: Any, path: str) -> Iterator[tuple[str, int]]:
    """Yield the names and values of all whole numbers of a configuration that are sizes by their names."""
    for key, value in config.items() if isinstance(config, dict) else ():
        name = f"{path}{key}"
        if isinstance(value, dict):
            yield from _sizes(value, f"{name}.")
        elif isinstance(value, int) and (_SIZE.search(str(key)) or _POSITIONS.search(str(key))):
            yield name, value


def _files_in(index: Path) -> list[str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no list of weight files: {type(error).__name__}") from error
    return sorted(map(str, names))


def check_attention(model: str, wanted: str | None, config: PretrainedConfig, kind: type[PreTrainedModel]) -> None:
    """Raise `ModelError` where transformers would fetch an attention kernel from the hub and run it: one that the
    model's configuration names, or one for flash attention that is not installed.

    `wanted`: what the user asked for, which outweighs the configuration; `kind`: the class that will be opened.
    """
    parts = [config, *(part for key in config.sub_configs if (part := getattr(config, key, None)) is not None)]
    asked = {wanted} if wanted else {getattr(part, "_attn_implementation", None) for part in parts}
    for name in sorted(str(name) for name in asked - {None, *COMES_WITH_TORCH}):
        own = getattr(kind, "_compatible_flash_implementations", None)
        here = INSTALLED.get(name)
        if here is None or not here() or (own and name not in own):
            raise ModelError(
                f"model '{model}': the attention {name!r} is not installed here, and would be code from the hub; take "
                "'sdpa' or 'eager' as attn_implementation, or allow such code with --trust-remote-code"
            )


def check_whole(model: str, whole: Any) -> None:
    """Raise `ModelError` where an adapter came with a model from the hub."""
    if getattr(whole, "_hf_peft_config_loaded", False):
        raise ModelError(f"model '{model}' is an adapter, expected a whole model: name its base model")
