"""Write and read the files of a saved trunk and of a task on it, as transformers names them."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from hft_plugins.backbones import remote_code
from hft_plugins.backbones.pretrained import Opened

TRUNK_FILE, HEAD_FILE, INDEX_FILE = "model.safetensors", "head.safetensors", "model.safetensors.index.json"


def write_trunk(folder: Path, opened: Opened, architecture: str, state: Mapping[str, Tensor], prefix: str) -> None:
    """Write configuration, tokenizer and weights of a trunk; `prefix`: of its weights in the class that opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, opened, architecture, {})
    # A tied weight has several names.
    once = {tensor.data_ptr(): name for name, tensor in reversed(list(state.items()))}
    named = {prefix + name: _plain(tensor) for name, tensor in state.items() if once[tensor.data_ptr()] == name}
    save_file(named, folder / TRUNK_FILE, metadata={"format": "pt"})
    opened.tokenizer.save_pretrained(folder)


def write_head(folder: Path, trunk_folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write a head's weights, and the index by which its class opens them with those of the trunk."""
    save_file({name: _plain(tensor) for name, tensor in state.items()}, folder / HEAD_FILE, metadata={"format": "pt"})
    trunk = trunk_folder / TRUNK_FILE
    _link_or_copy(trunk, folder / "trunk.safetensors")
    names = dict.fromkeys(_tensor_names(trunk), "trunk.safetensors") | dict.fromkeys(state, HEAD_FILE)
    size = trunk.stat().st_size + (folder / HEAD_FILE).stat().st_size
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def link_trunk(folder: Path, trunk_folder: Path) -> None:
    """Make the trunk saved in `trunk_folder` open from `folder` too, without a second copy of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in trunk_folder.iterdir():
        if path.is_file():
            _link_or_copy(path, folder / path.name)


def read_head(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / HEAD_FILE)


def write_config(folder: Path, opened: Opened, architecture: str, settings: Mapping[str, Any]) -> None:
    """Write the model's configuration with `settings`, and the code that it names."""
    config = copy.deepcopy(opened.saved_config)
    config.update(dict(settings))
    config.architectures = [architecture]
    config.dtype = "float32"
    if opened.trust_remote_code:
        remote_code.save(config, folder)
    config.save_pretrained(folder)


def untied_setting(whole: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return what the configuration has to say where `state` has all weights that the family ties; nothing where that
    would change more (T5's scale). transformers sees that they are two; other programs go by the configuration."""
    tied, config = getattr(whole, "_tied_weights_keys", None) or {}, whole.config
    if not tied or not tied.keys() <= state.keys() or not getattr(config, "tie_word_embeddings", False):
        return {}
    setting = {"tie_word_embeddings": False}
    changed = type(config).from_dict({**config.to_dict(), **setting}).to_dict()
    return setting if changed == {**config.to_dict(), **setting} else {}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()


def _tensor_names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _link_or_copy(source: Path, target: Path) -> None:
    """The trunk is one file however many tasks there are; file systems without hard links get a copy each."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
