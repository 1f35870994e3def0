"""Write the weights of a decoder into a GGUF file, one at a time, as llama.cpp names and orders them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from transformers import PretrainedConfig

if TYPE_CHECKING:
    from gguf import GGUFWriter

OUTTYPES = ("f32", "f16", "bf16", "q8_0")
"""The number formats of matrices, by llama.cpp's names; vectors (norms, biases) are in float32 in each."""
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
BLOCK = 32
"""Weights of a row that have one scale in q8_0."""
INDEX_FILE = "model.safetensors.index.json"


class NoPlace(ValueError):
    """A weight that the architecture has no place for in GGUF; says which."""


@dataclass(frozen=True)
class _Weight:
    """One weight of the model's folder, and what becomes of it."""

    file: Path
    key: str
    name: str
    shape: tuple[int, ...]
    format: Any
    """A `gguf.GGMLQuantizationType`."""
    heads: int
    """The number of heads whose rows are reordered; 0: of none."""

    def stored(self) -> np.ndarray[Any, Any]:
        from gguf import quants

        with safe_open(self.file, framework="np") as file:
            values = file.get_tensor(self.key).astype(np.float32)
        if self.heads:
            values = interleaved(values, self.heads)
        packed: np.ndarray[Any, Any] = quants.quantize(np.ascontiguousarray(values), self.format)
        return packed


def interleaved(rows: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Reorder the rows `[heads * width, …]` of a query or key: transformers rotates the first half of a head's width
    against the second, llama.cpp's Llama each row against the next one."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, 2, width // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_tensors(writer: GGUFWriter, folder: Path, config: PretrainedConfig, architecture: str, outtype: str) -> None:
    """Write the file of `writer`, whose other keys are there, with the weights of a folder of transformers.

    Raises `NoPlace`.
    """
    from gguf import quants

    weights = list(_weights(folder, config, architecture, outtype))
    for weight in weights:
        shape: tuple[int, ...] = weight.shape
        kind = {"F32": np.float32, "F16": np.float16}.get(weight.format.name, np.uint8)
        if kind is np.uint8:
            shape = quants.quant_shape_to_byte_shape(shape, weight.format)
        size = math.prod(shape) * np.dtype(kind).itemsize
        writer.add_tensor_info(weight.name, shape, np.dtype(kind), size, raw_dtype=weight.format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for weight in weights:
        writer.write_tensor_data(weight.stored())


def _weights(folder: Path, config: PretrainedConfig, architecture: str, outtype: str) -> Iterator[_Weight]:
    import gguf

    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for key, file in _files(folder).items():
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise NoPlace(f"its weight '{key}' has no place in the architecture '{architecture}'")
        with safe_open(file, framework="np") as opened:
            shape = tuple(opened.get_slice(key).get_shape())
        turned = heads.get(key.split(".")[-2], 0) if architecture == "llama" else 0
        yield _Weight(file, key, name, shape, _format(shape, outtype), turned)


def _files(folder: Path) -> Mapping[str, Path]:
    """Return the file of each weight."""
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    return {key: folder / name for key, name in index["weight_map"].items()}


def _format(shape: tuple[int, ...], outtype: str) -> Any:
    from gguf import GGMLQuantizationType

    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if outtype == "q8_0" and shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return GGMLQuantizationType[outtype.upper()]
