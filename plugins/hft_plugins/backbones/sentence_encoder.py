"""Read how a sentence encoder pools, and write a pooled head, in the files of sentence-transformers.

These stand beside a model's own: `modules.json` lists the modules behind the transformer, each with a folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from hft_core.backbone import PooledOutput, TextPooling

MODULES_FILE, POOLING_FILE = "modules.json", "config.json"
MODES: dict[str, TextPooling] = {"cls": "cls", "max": "max", "mean": "mean", "lasttoken": "last"}
OLD_NAMES: dict[str, TextPooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""One true or false per mode, in older files; other modes have no name here."""


def pooling_of(model: str, revision: str | None) -> TextPooling | None:
    """Return the pooling that the folder or hub id `model` was trained with; None if it is no sentence encoder, or
    pools in another way. Dense and Normalize modules behind the pooling are for comparing texts; a fresh head needs
    neither."""
    modules = _json(model, MODULES_FILE, revision)
    if not isinstance(modules, list):
        return None
    entry = next((e for e in modules if isinstance(e, dict) and str(e.get("type", "")).endswith(".Pooling")), None)
    path = entry.get("path") if entry is not None else None
    if not isinstance(path, str) or ".." in path or path.startswith("/"):
        return None
    config = _json(model, f"{path}/{POOLING_FILE}" if path else POOLING_FILE, revision)
    if not isinstance(config, dict):
        return None
    if "pooling_mode" in config:
        return MODES.get(str(config["pooling_mode"]))
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    return OLD_NAMES.get(modes[0]) if len(modes) == 1 else None


def _json(model: str, name: str, revision: str | None) -> Any:
    """Return the content of a file of the model; None where it is missing or not JSON."""
    try:
        path = cached_file(
            model,
            name,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is None:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_modules(folder: Path, output: PooledOutput, *, hidden_size: int, max_length: int) -> None:
    """Write the modules behind a transformer whose files are in `folder`: `SentenceTransformer(folder).encode(texts)`
    then gives the head's outputs `[batch, outputs]`. `hidden_size`: of the transformer; `max_length`: tokens of a
    text."""
    kinds = ["Transformer", "Pooling"]
    kinds += ["Dense"] if output.weight is not None else []
    kinds += ["Normalize"] if output.normalize else []
    folders = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], start=1))]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, folders, strict=True))
    ]
    _write_json(folder / MODULES_FILE, entries)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    modes = {old: pooling == output.pooling for old, pooling in OLD_NAMES.items()}
    _write_json(folder / "1_Pooling" / POOLING_FILE, {"word_embedding_dimension": hidden_size, **modes})
    if output.weight is not None:
        _write_dense(folder / "2_Dense", output.weight, output.bias)
    if output.normalize:
        _write_json(folder / folders[-1] / "config.json", {})


def _write_dense(folder: Path, weight: Tensor, bias: Tensor | None) -> None:
    outputs, size = weight.shape
    activation = "torch.nn.modules.linear.Identity"
    config = {"in_features": size, "out_features": outputs, "bias": bias is not None, "activation_function": activation}
    _write_json(folder / "config.json", config)
    tensors = {"linear.weight": weight} if bias is None else {"linear.weight": weight, "linear.bias": bias}
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
