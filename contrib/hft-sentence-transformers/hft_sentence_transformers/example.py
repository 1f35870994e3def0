"""A tiny folder of sentence-transformers, for the conformance suite and for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hft_core.testing import trunks

LENGTH = 48
OUT = 6
"""Size of the Dense layer's vectors."""


def write(
    folder: Path,
    *,
    pooling: str | list[str] = "mean",
    dense: bool = True,
    normalize: bool = True,
    family: str = "BERT",
    inside: str = "",
) -> None:
    """A tiny transformer with random weights in `folder` (or in `inside` there), and the modules behind it."""
    shutil.copytree(trunks.folder(family), folder / inside, dirs_exist_ok=True)
    _json(folder / inside / "sentence_bert_config.json", {"max_seq_length": LENGTH, "do_lower_case": False})
    modules = [("Transformer", inside), ("Pooling", "1_Pooling")]
    _json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": trunks.WIDTH, "pooling_mode": pooling})
    if dense:
        modules.append(("Dense", f"{len(modules)}_Dense"))
        width = trunks.WIDTH * (1 if isinstance(pooling, str) else len(pooling))
        _dense(folder / modules[-1][1], width)
    if normalize:
        modules.append(("Normalize", f"{len(modules)}_Normalize"))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    _json(folder / "modules.json", entries)


def _dense(place: Path, width: int) -> None:
    activation = "torch.nn.modules.activation.Tanh"
    _json(
        place / "config.json",
        {"in_features": width, "out_features": OUT, "bias": True, "activation_function": activation},
    )
    random = torch.Generator().manual_seed(3)
    weight = torch.randn(OUT, width, generator=random) / width**0.5
    bias = torch.zeros(OUT)
    save_file({"linear.weight": weight, "linear.bias": bias}, place / "model.safetensors")


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
