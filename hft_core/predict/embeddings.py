"""Compute embeddings of rows and of single texts with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hft_core.batching.buckets import EVALUATION_ROWS, tokens_at_once
from hft_core.batching.collate import Collator
from hft_core.data import loading
from hft_core.data.examples import Examples, encode, in_memory
from hft_core.device.machine import Machine
from hft_core.errors import DataError, UsageError
from hft_core.head import Encoded, Head
from hft_core.model.hybrid import HybridModel
from hft_core.predict.prediction import Trained, head_of, machine_of
from hft_core.runs import assembly
from hft_core.runtime import signals
from hft_core.runtime.run_lock import exclusive

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase


@exclusive
def embed(saved: Trained, task: str, rows: Any) -> NDArray[np.float32]:
    """Return the embeddings `[rows, d]`: those of the task's head if it has any, else the mean of the last hidden
    states.

    `rows`: as in `predict`. Of a row that becomes several sequences, the first one is embedded. Raises `DataError` for
    rows without a column that the task reads.
    """
    head, rows = head_of(saved, task), loading.from_python(rows, task=task)
    assembly.check_rows(task, head, rows, "input", need_targets=False)
    limit = assembly.max_length(saved.resolved, task, saved.model)
    examples = encode(rows, head, saved.model.backbone.tokenizer, limit, with_targets=False)
    return _of_rows(saved, task, examples, len(rows))


@exclusive
def embed_texts(saved: Trained, task: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the embeddings `[texts, d]` of single texts, as `embed` does, also by a task that reads more columns.

    Raises `UsageError` for a task whose head has embeddings of several columns together.
    """
    limit = assembly.max_length(saved.resolved, task, saved.model)
    encoded = _encode_texts(head_of(saved, task), saved.model.backbone.tokenizer, texts, limit)
    return _of_rows(saved, task, in_memory([(encoded, range(len(texts)))]), len(texts))


def vectors_by_row(
    model: HybridModel, task: str, examples: Examples, machine: Machine, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the numbers of the rows that have examples, in order, and the vectors `[rows, d]` of their first ones."""
    head, pad = model.head(task), model.backbone.tokenizer.pad_token_id
    batches = Collator({task: examples}, {task: head}, seed=seed, pad=pad).in_length_order(
        max_rows=EVALUATION_ROWS, max_tokens=tokens_at_once(machine.device)
    )
    numbers, parts = [], []
    with model.evaluating(), torch.inference_mode(), machine.autocast():
        for batch in batches:
            signals.check()
            moved = batch.to(machine.device)
            for segment, features in model.segments(moved, model.hidden(moved)):
                if head.joint:
                    vectors = head.embed(features)
                else:
                    mask = features.attention_mask.unsqueeze(-1)
                    vectors = (features.hidden * mask).sum(1) / mask.sum(1)
                numbers.append(segment.examples)
                parts.append(vectors.float().cpu().numpy())
    in_order = np.concatenate(parts)[np.argsort(np.concatenate(numbers))]
    rows, first = np.unique(examples.rows, return_index=True)
    return rows.astype(np.int64), in_order[first]


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the vectors `[n, d]` with length 1, so that inner products are cosines; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)


def _of_rows(saved: Trained, task: str, examples: Examples, count: int) -> NDArray[np.float32]:
    machine, seed = machine_of(saved), saved.resolved.recipe.seed
    rows, vectors = vectors_by_row(saved.model, task, examples, machine, seed=seed)
    if len(rows) < count:
        missing = next(i for i in range(count) if i == len(rows) or rows[i] != i)
        raise DataError(f"task '{task}': row {missing + 1} has no tokens to embed")
    return vectors


def _encode_texts(head: Head, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], limit: int) -> Encoded:
    """Encode texts as the head does, or, for one that reads more than a text, as the tokenizer does."""
    read = [column for column in head.columns() if not column.target]
    if len(read) == 1 and read[0].kind == "text" and not read[0].many:
        return head.encode({read[0].name: texts}, tokenizer, limit)
    if head.joint:
        names = ", ".join(column.name for column in read)
        raise UsageError(f"task '{head.task}' embeds several columns together ({names}), expected one of single texts")
    encoding = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)
    extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
    return Encoded(encoding["input_ids"], list(range(len(texts))), extra=extra)
