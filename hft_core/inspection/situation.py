"""Find out what a recipe's tasks and the machine are like, without opening the model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import try_to_load_from_cache

from hft_core.head import Head
from hft_core.inspection.auto_plan import Choice, Situation, TaskFacts, choose
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.recipe.yaml_source import Source
from hft_core.runs import assembly
from hft_core.runs.assembly import Splits

SAMPLE = 500
"""Rows of a task, evenly spaced, whose texts are measured."""
_PIECES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
TOKENS_A_PIECE = 1.3
"""Of a word or sign, in most vocabularies."""
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")


def auto_source(source: Source, catalogue: Catalogue) -> tuple[Source, tuple[str, ...]]:
    """Return the recipe with the stages and lengths that suit it, in place of its own stages, and the reasons.

    Raises what the recipe or its data would raise in `hft_core.run` before training.
    """
    choice = chosen(resolve(recipe_file.validate(source), catalogue, source.where))
    tasks = {
        name: {"max_length": choice.max_lengths[name], **task} if name in choice.max_lengths else task
        for name, task in source.data["tasks"].items()
    }
    data = {**source.data, "tasks": tasks, "stages": choice.stages}
    return Source.of(data, source.name, source.folder), choice.reasons


def chosen(resolved: Resolved) -> Choice:
    """Read the rows of a recipe and choose its stages."""
    heads = assembly.build_heads(resolved)
    rows = assembly.load_rows(resolved, heads, {})
    device, memory = _device()
    return choose(
        Situation(
            tasks=tuple(
                _facts(name, resolved.heads[name].entry.name, heads[name], splits) for name, splits in rows.items()
            ),
            weights=weights_of(str(resolved.recipe.backbone.options.get("model", ""))),
            memory=memory,
            device=device,
        )
    )


def _facts(name: str, kind: str, head: Head, splits: Splits) -> TaskFacts:
    rows = splits["train"]
    texts = [column.name for column in head.columns() if column.kind in ("text", "messages") and not column.target]
    sample = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)).tolist()
    columns = [rows[text] for text in texts]
    tokens = [sum(estimated_tokens(column[i]) for column in columns) for i in sample]
    longest = int(np.quantile(tokens, 0.95)) if tokens else 0
    may_be_cut = not head.chunks_long_texts and head.writing() is None
    return TaskFacts(name, kind, head.supervised, len(rows), longest, may_be_cut)


def estimated_tokens(cell: Any) -> int:
    """Estimate the tokens of a cell: a Chinese, Japanese or Korean character is one, a word or sign 1.3."""
    text = cell if isinstance(cell, str) else " ".join(map(_text, cell)) if isinstance(cell, list) else str(cell)
    return 2 + round(TOKENS_A_PIECE * len(_PIECES.findall(text)))


def _text(item: Any) -> str:
    return str(item.get("content", item.get("value", ""))) if isinstance(item, Mapping) else str(item)


def weights_of(model: str) -> int | None:
    """Return the bytes of a model's weights: a folder, a file, or a hub id that is in the cache."""
    path = Path(model)
    if path.is_dir():
        sizes = [sum(file.stat().st_size for file in path.glob(pattern)) for pattern in WEIGHT_FILES]
        return next((size for size in sizes if size), None)
    if path.is_file():
        return path.stat().st_size
    try:
        cached = try_to_load_from_cache(model, "model.safetensors")
    except ValueError:  # no name of the hub
        return None
    return Path(cached).stat().st_size if isinstance(cached, str) else None


def _device() -> tuple[str, int]:
    if torch.cuda.is_available():
        return "GPU", int(torch.cuda.get_device_properties(0).total_memory)
    return "machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
