"""Check that the configuration, weights and tokenizer of a model fit together.

transformers takes parts that do not: it starts weights of another shape at random, makes a tokenizer without words
where there is none, and looks up a token that the model has no embedding for only when a text holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from hft_core.errors import ModelError


def damaged(model: str) -> str:
    """The first file of the folder `model` that is not what its name says, and why; empty without any.

    The libraries that read the files tell of such a one without its name.
    """
    for file in sorted(Path(model).glob("*.json")):
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{file} is not valid JSON: {' '.join(str(error).split())}"
    for file in sorted(Path(model).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{file} is not valid safetensors: {' '.join(str(error).split())}"
    return ""


def check_shapes(model: str, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Raise `ModelError` when there is a weight in `mismatched`: its name, and its shapes in the file and in the
    configuration."""
    by_name = sorted(mismatched, key=lambda each: each[0])
    if by_name:
        name, in_file, wanted = by_name[0]
        more = f" (and {len(by_name) - 1} more)" if len(by_name) > 1 else ""
        raise ModelError(
            f"model '{model}': the weight {name} has the shape {list(in_file)}, expected {list(wanted)} after its "
            f"config.json{more}"
        )


def restore_tied(model: str, whole: PreTrainedModel, revision: str | None) -> None:
    """Give tied weights the values of the files of `model` again: where another part of the LM head is missing from
    them, transformers starts it anew with all of its weights (Funnel's), those tied to the embeddings included."""
    names: dict[int, list[str]] = {}
    for name, tensor in whole.state_dict().items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    tied = [name for group in names.values() if len(group) > 1 for name in group]
    file = cached_file(model, SAFE_WEIGHTS_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    if not tied or file is None:
        return
    with safe_open(file, framework="pt") as weights, torch.no_grad():
        for name in set(tied) & set(weights.keys()):
            parameter = whole.get_parameter(name)
            parameter.copy_(weights.get_tensor(name))


def clear_fresh_biases(whole: PreTrainedModel, missing: Iterable[str]) -> None:
    """Begin biases that the files lack at zero: some families leave theirs as the memory is that they are put in."""
    known = dict(whole.named_parameters())
    for name in missing:
        if name.rpartition(".")[2] == "bias" and name in known:
            nn.init.zeros_(known[name])


def check_numbers(model: str, whole: PreTrainedModel) -> None:
    """Raise `ModelError` for weights that are not finite numbers: every step would be skipped."""
    for name, parameter in whole.named_parameters():
        # A sum that is finite has finite parts only, and takes a tenth of the time; that of huge ones may overflow.
        if not bool(parameter.detach().sum().isfinite()) and not bool(parameter.isfinite().all()):
            raise ModelError(f"model '{model}': its weight {name} holds values that are not finite numbers")


def check_tokenizer(model: str, tokenizer: Any, whole: PreTrainedModel) -> None:
    """Raise `ModelError` for a tokenizer that has no words, or more than the model has embeddings."""
    ids = set(tokenizer.get_vocab().values())
    if ids <= set(tokenizer.all_special_ids):
        raise ModelError(f"model '{model}' has no tokenizer: expected its files (tokenizer.json, …) beside the weights")
    rows: Any = whole.get_input_embeddings().weight
    if max(ids) >= len(rows):
        raise ModelError(
            f"model '{model}': its tokenizer gives token ids up to {max(ids)}, but the model has embeddings for "
            f"{len(rows)} tokens: expected the tokenizer that belongs to it"
        )
