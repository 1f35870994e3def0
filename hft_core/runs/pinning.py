"""Compute the digests of what a run begins with: base model, rows, files, code and versions."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone
from hft_core.data import token_cache_key
from hft_core.head import Head
from hft_core.pins import PLUGIN_FILE, Pins
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Chosen, Resolved
from hft_core.runs.assembly import BuiltRun
from hft_core.runtime.files import file_hash

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "torchjd", "datasets", "safetensors")
"""Distributions that take part in a run's numbers."""
NOT_SETTINGS = ("_name_or_path", "_commit_hash", "transformers_version")
"""Keys of a model's configuration that change nothing of what it computes."""
FILES = 10_000
"""A folder with more files than this is pinned by their names and sizes."""


def pin(built: BuiltRun) -> Pins:
    """Compute the digests of a run that is built and has not trained yet."""
    resolved, backbone = built.resolved, built.model.backbone
    return replace(
        pin_opened(resolved, backbone, built.heads),
        recipe=recipe_digest(resolved),
        fresh_heads={task: _weights(head) for task, head in built.heads.items() if not head.pretrained},
        rows={split: {task: _rows(built, split, task) for task in tasks} for split, tasks in built.examples.items()},
        data_commits={
            source.name: source.commit
            for splits in built.rows.values()
            for rows in splits.values()
            for source in rows.sources
            if source.commit
        },
        files=dict(_files(resolved, backbone)),
    )


def _rows(built: BuiltRun, split: str, task: str) -> str:
    """Hash a task's tokenized rows; of a stream, the first ones with what its files are known by."""
    digest = built.examples[split][task].content_digest.hex()
    if split == "train" and task in built.streams:
        digest = _digest((digest, built.streams[task].digest))
    return digest[:32]


def pin_opened(resolved: Resolved, backbone: Backbone, heads: Mapping[str, Head]) -> Pins:
    """Compute the digests of what a finished run is opened with: base model, the heads that came with it, and code."""
    config = getattr(backbone.trunk, "config", None)
    return Pins(
        model=str(resolved.recipe.backbone.options.get("model", "")),
        commit=str(getattr(config, "_commit_hash", None) or ""),
        weights=_weights(backbone.trunk),
        heads={task: _weights(head) for task, head in heads.items() if head.pretrained},
        configuration=_configuration(config),
        tokenizer=_tokenizer(backbone),
        code=code(resolved),
        versions=versions(resolved),
    )


def recipe_digest(resolved: Resolved) -> str:
    """Return the SHA-256 of the recipe with all defaults written out."""
    return hashlib.sha256(recipe_file.dump(resolved.recipe).encode()).hexdigest()


def _configuration(config: Any) -> str:
    """Hash the settings of a model that decide what it computes."""
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    kept = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _tokenizer(backbone: Backbone) -> str:
    """Hash the tokenizer; empty for one that cannot be saved."""
    try:
        return token_cache_key.hash_tokenizer(backbone.tokenizer)
    except Exception:  # a custom tokenizer may raise anything
        return ""


def code(resolved: Resolved) -> dict[str, str]:
    """Return a hash of the source of each distribution, module or single file that plugins were taken from."""
    return {name: digest for chosen in resolved.chosen() for name, digest in [_source(chosen)] if digest}


def versions(resolved: Resolved) -> dict[str, str]:
    """Return the versions of hft, of the libraries that compute, and of the distributions of plugins."""
    known = {name: found for name in ("hft-core", *LIBRARIES) if (found := _version(name))}
    providers = [chosen.entry.provider for chosen in resolved.chosen()]
    return {**known, **{provider.distribution: provider.version for provider in providers if provider.version}}


def _weights(module: nn.Module) -> str:
    """Hash names, types, shapes and values of the parameters and saved buffers, several tensors at a time."""
    tensors = module.state_dict()
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_tensor_digest, tensors.values()))
    return _digest(list(zip(tensors, digests, strict=True)))


def _tensor_digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _files(resolved: Resolved, backbone: Backbone) -> Iterator[tuple[str, str]]:
    """Yield the files and folders that options name by an absolute path, and the code of a base model that has its own;
    the base model's weights are pinned as tensors."""
    for place, chosen in _places(resolved):
        for name, text in _texts(chosen.options.model_dump(mode="json")):
            is_model = chosen is resolved.backbone and name == "model"
            if not is_model and os.path.isabs(text) and os.path.exists(text):  # noqa: PTH110 (a text of any length)
                yield f"{place}: {name} ({text})", _tree_digest(Path(text))
    folder = Path(resolved.recipe.backbone.options.get("model", ""))
    own_code = [] if str(folder) == "." or not folder.is_dir() else sorted(folder.glob("*.py"))
    if own_code and type(backbone.trunk).__module__.partition(".")[0] != "transformers":
        yield f"backbone: model ({folder}), its code", _digest([(path.name, file_hash(path)) for path in own_code])


def _places(resolved: Resolved) -> Iterator[tuple[str, Chosen]]:
    yield "backbone", resolved.backbone
    for task, chosen in resolved.heads.items():
        yield f"task '{task}'", chosen
    for each in resolved.stages:
        for seam, choice in (("strategy", each.strategy), ("combiner", each.combiner)):
            if choice is not None:
                yield f"stage '{each.stage.name}', {seam}", choice


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text of plugin options with its key."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Iterable):
        for part in value:
            yield from _texts(part, name)


def _tree_digest(path: Path) -> str:
    """Hash a file's content, or the names and contents of a folder's files without hidden ones."""
    if path.is_file():
        return file_hash(path)
    files = sorted(file for file in path.rglob("[!.]*") if file.is_file())
    if len(files) > FILES:
        return _digest([(str(file.relative_to(path)), file.stat().st_size) for file in files])
    return _digest([(str(file.relative_to(path)), file_hash(file)) for file in files])


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _source(chosen: Chosen) -> tuple[str, str]:
    """Return where a plugin was taken from, and the hash of that source; none for code without a file."""
    entry, provider = chosen.entry, chosen.entry.provider
    if provider.sha256:  # by what it is used for: the file may be moved
        return f"{PLUGIN_FILE} {entry.seam} '{entry.name}'", provider.sha256
    module = chosen.catalogue.load_factory(entry).__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    return provider.distribution, token_cache_key.hash_source(Path(file)) if file else ""


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
