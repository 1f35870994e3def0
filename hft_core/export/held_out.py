"""Compute what a run, and what was exported of it, answer to rows that the run did not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Features, LanguageModel
from hft_core.batching.batch import Batch
from hft_core.batching.buckets import EVALUATION_ROWS, tokens_at_once
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples, encode
from hft_core.data.rows import Rows
from hft_core.device.machine import find_machine
from hft_core.errors import UsageError
from hft_core.export.export_format import Exported, is_language_model
from hft_core.head import Head
from hft_core.predict.prediction import answers_by_row
from hft_core.predict.saved_run import SavedRun
from hft_core.runs import assembly
from hft_core.training.evaluation import evaluate_task

SPLITS = ("test", "dev")
"""The first of these that has rows is the one."""


@dataclass(frozen=True)
class HeldOut:
    """The rows of a task that an export is compared on."""

    split: str
    rows: Rows


@dataclass(frozen=True)
class Answered:
    """What a model says to the rows of a task."""

    scores: dict[str, float]
    """The head's metrics; without the loss, but for language models."""
    answers: list[dict[str, Any]]
    """By row; of a language model, its likeliest token at each position. Empty for heads that only score."""


def held_out(saved: SavedRun, tasks: Sequence[str]) -> dict[str, HeldOut]:
    """Load the test rows of tasks by the run's own recipe, or the dev rows of those that have no test rows.

    Raises `DataError` when its files are gone, `UsageError` for a task with neither.
    """
    rows = assembly.load_rows(saved.resolved, {task: saved.model.head(task) for task in tasks}, {})
    found = {}
    for task, splits in rows.items():
        split = next((name for name in SPLITS if name in splits and len(splits[name])), None)
        if split is None:
            raise UsageError(f"task '{task}' has neither test nor dev rows, which what is exported is compared on")
        found[task] = HeldOut(split, splits[split])
    return found


def of_run(saved: SavedRun, task: str, held: HeldOut) -> Answered:
    """Answer the rows with the run's own model, in float32 on the CPU."""
    model, tokenizer = saved.model, saved.model.backbone.tokenizer
    if is_language_model(model.head(task)):

        def language(batch: Batch) -> tuple[Tensor, Tensor]:
            hidden, head = model.hidden(batch), model.head(task).family
            assert isinstance(head, LanguageModel)
            return hidden, head(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])

        return _spoken(saved, task, held, tokenizer, language)
    examples = _encoded(saved, task, held, tokenizer)
    machine = replace(find_machine("fp32"), device=torch.device("cpu"))
    found = evaluate_task(model, task, examples, machine, seed=saved.resolved.recipe.seed, with_loss=False)
    return _answered(model.head(task), task, held.rows, examples, found.predictions)


def of_exported(exported: Exported, saved: SavedRun, task: str, held: HeldOut) -> Answered:
    """Answer the rows with what was exported, its tokenizer included: the head only decodes."""
    head, tokenizer = saved.model.head(task), exported.tokenizer(task)
    if is_language_model(head):
        _check_tokens(saved, task, held, tokenizer)
        return _spoken(saved, task, held, tokenizer, lambda batch: exported.language(task, batch.inputs))
    examples = _encoded(saved, task, held, tokenizer)
    predictions: dict[int, Any] = {}
    for batch in _batches(saved, task, examples, tokenizer):
        (segment,) = batch.segments
        decoded = head.decode(exported.outputs(task, batch.inputs), segment.targets)
        ids = segment.examples
        answered = ids[np.isin(ids, examples.answered(head))] if head.predicts_units else ids
        predictions |= dict(zip(answered.tolist(), decoded, strict=True))
    return _answered(head, task, held.rows, examples, [predictions[example] for example in sorted(predictions)])


def _check_tokens(saved: SavedRun, task: str, held: HeldOut, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UsageError` where an exported tokenizer makes other tokens of a row than the run's: two language models
    are compared token by token."""
    mine, others = (
        _encoded(saved, task, held, one).tokens_of_rows() for one in (saved.model.backbone.tokenizer, tokenizer)
    )
    wrong = [row for row in sorted(mine.keys() | others.keys()) if mine.get(row) != others.get(row)]
    if wrong:
        raise UsageError(
            f"task '{task}': the exported tokenizer makes other tokens than the run's of {len(wrong)} of "
            f"{len(held.rows)} {held.split} rows, the first of which is row {wrong[0] + 1}"
        )


def _spoken(
    saved: SavedRun,
    task: str,
    held: HeldOut,
    tokenizer: PreTrainedTokenizerBase,
    language: Callable[[Batch], tuple[Tensor, Tensor]],
) -> Answered:
    """Score a language model by its hidden states, and take its logits' likeliest tokens for its answers."""
    head, examples = saved.model.head(task), _encoded(saved, task, held, tokenizer)
    loss, targets = 0.0, 0
    answers: list[dict[str, Any]] = []
    for batch in _batches(saved, task, examples, tokenizer):
        (segment,) = batch.segments
        with torch.inference_mode():
            hidden, logits = language(batch)
            features = Features(hidden, batch.inputs["input_ids"], batch.inputs["attention_mask"])
            loss += float(head.loss(features, segment.targets))
        targets += segment.targets.count
        mask = batch.inputs.get("decoder_attention_mask", batch.inputs["attention_mask"]).bool()
        answers += [{"value": token} for token in logits.argmax(dim=-1)[mask].tolist()]
    mean = loss / targets if targets else math.nan
    scores = {"loss": mean} if head.predicts_when_scored and head.generates else head.metrics([], [], mean)
    return Answered(scores, answers)


def _batches(saved: SavedRun, task: str, examples: Examples, tokenizer: PreTrainedTokenizerBase) -> Iterator[Batch]:
    collator = Collator(
        {task: examples}, {task: saved.model.head(task)}, seed=saved.resolved.recipe.seed, pad=tokenizer.pad_token_id
    )
    return collator.in_length_order(max_rows=EVALUATION_ROWS, max_tokens=tokens_at_once(torch.device("cpu")))


def _encoded(saved: SavedRun, task: str, held: HeldOut, tokenizer: PreTrainedTokenizerBase) -> Examples:
    limit = assembly.max_length(saved.resolved, task, saved.model)
    return encode(held.rows, saved.model.head(task), tokenizer, limit)


def _answered(head: Head, task: str, rows: Rows, examples: Examples, predictions: Sequence[Any]) -> Answered:
    references = examples.references(examples.answered(head), head)
    scores = {name: value for name, value in head.metrics(predictions, references, math.nan).items() if name != "loss"}
    answers = type(head).answer is not Head.answer
    return Answered(scores, answers_by_row(task, head, rows, examples, predictions) if answers else [])
