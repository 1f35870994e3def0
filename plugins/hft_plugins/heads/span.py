"""`span`: extractive question answering, the position of the answer in a context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, Features
from hft_core.data import as_list, as_number, shown
from hft_core.errors import PluginError
from hft_core.head import Column, Draw, Encoded, Targets
from hft_plugins.heads.parts.answer_tokens import UNLEARNED, answer_tokens, first_answer
from hft_plugins.heads.parts.squad_metrics import best, exact_match
from hft_plugins.heads.parts.squad_metrics import f1 as word_f1
from hft_plugins.heads.parts.token_head import PositionHead

START, END = 0, 1
"""The two outputs of each token."""


class Options(options.Options):
    """Options of `span`: columns, chunking of long contexts, and choice of the answer; names as in run_qa."""

    question: str = Field(default="question", description="column of the question")
    context: str = Field(default="context", description="column of the text that holds the answer")
    answer: str = Field(
        default="answers.text", description="column of the answer, or of the list of right answers (SQuAD's by default)"
    )
    answer_start: str = Field(
        default="answers.answer_start", description="column of the character in the context at which each answer starts"
    )
    doc_stride: int = Field(default=128, ge=1, description="overlap of consecutive chunks of a context, in tokens")
    max_query_length: int = Field(default=64, ge=1, description="longest question in tokens; longer ones are truncated")
    n_best_size: int = Field(
        default=20, ge=1, description="number of top start and end positions that are combined to answers"
    )
    max_answer_length: int = Field(default=30, ge=1, description="longest answer, in tokens")
    version_2_with_negative: bool = Field(default=False, description="some questions have no answer (SQuAD 2.0)")
    null_score_diff_threshold: float = Field(
        default=0.0, description="predict no answer if its score exceeds the best answer's by more than this"
    )


class Span(PositionHead):
    """Cross-entropy on where the answer starts and where it ends, half each, as AutoModelForQuestionAnswering.

    A context longer than `max_length` becomes several chunks, each an example. The target is the tokens that share a
    character with the answer, blanks at its ends aside. In a chunk without the whole answer, it is the tokenizer's CLS
    token, or else the first token; where no chunk holds the whole answer, those with a part of it have no target.
    Padding takes no part in the softmax, so that the loss of a row does not depend on the rows beside it.
    """

    main_metric = "f1"
    chunks_long_texts = True

    def __init__(self, task: str, options: Options) -> None:
        super().__init__(task)
        self.options = options
        self.answers = Column(options.answer, "text", target=True, many=True)
        self.starts = Column(options.answer_start, "number", target=True, many=True)

    # --- data

    def columns(self) -> Sequence[Column]:
        return [Column(self.options.question, "text"), Column(self.options.context, "text"), self.answers, self.starts]

    def learn(self, rows: Mapping[str, Sequence[Any]]) -> None:
        """Raises `ValueError` for rows of which none has an answer."""
        if not any(as_list(cell, self.answers) for cell in rows[self.answers.name]):
            raise ValueError(f"column '{self.answers.name}': no row has an answer, from which its place is learned")

    def check(self, row: Mapping[str, Any]) -> str:
        context = row[self.options.context]
        texts, starts = as_list(row[self.answers.name], self.answers), as_list(row[self.starts.name], self.starts)
        if len(texts) != len(starts):
            return (
                f"columns '{self.answers.name}' and '{self.starts.name}' differ in length: found {len(texts)} answers "
                f"and {len(starts)} starts"
            )
        if not texts and not self.options.version_2_with_negative:
            return f"column '{self.answers.name}': found no answer, expected one (or version_2_with_negative: true)"
        problems = (_misplaced(text, as_number(start), context) for text, start in zip(texts, starts, strict=True))
        return next((f"column '{self.starts.name}': {problem}" for problem in problems if problem), "")

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 4:
            raise PluginError(f"task '{self.task}': max_length {max_length} has no room for a question and a context")
        query = min(self.options.max_query_length, room // 2)
        questions = _cut([question.strip() for question in rows[self.options.question]], tokenizer, query)
        contexts = list(rows[self.options.context])
        encoding = tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=max_length,
            stride=min(self.options.doc_stride, (room - query) // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        of_row: list[int] = list(encoding["overflow_to_sample_mapping"])
        notes = {
            row: f"the question is cut after {query} tokens (max_query_length, and half of what max_length leaves)"
            for row, (whole, kept) in enumerate(zip(rows[self.options.question], questions, strict=True))
            if len(kept) < len(whole.strip())
        }
        firsts = [i == 0 or of_row[i - 1] != row for i, row in enumerate(of_row)]
        places = [
            _places(offsets, encoding.sequence_ids(i), contexts[of_row[i]])
            for i, offsets in enumerate(encoding["offset_mapping"])
        ]
        targets: dict[str, list[Any]] = {
            "from": [place[0] for place in places],
            "to": [place[1] for place in places],
            "null": [_null(ids, tokenizer.cls_token_id) for ids in encoding["input_ids"]],
            "first": firsts,
            "context": [contexts[row] if first else "" for row, first in zip(of_row, firsts, strict=True)],
        }
        of_answers: dict[int, str] = {}
        if self.answers.name in rows and self.starts.name in rows:
            answers = [as_list(cell, self.answers) for cell in rows[self.answers.name]]
            starts = [[int(as_number(s)) for s in as_list(cell, self.starts)] for cell in rows[self.starts.name]]
            spans = [first_answer(*each) for each in zip(answers, starts, contexts, strict=True)]
            found, of_answers = answer_tokens(spans, of_row, places, self.options.max_answer_length)
            targets["start"], targets["end"] = (
                [null if f is None else f[side] for f, null in zip(found, targets["null"], strict=True)]
                for side in (START, END)
            )
            targets["answers"] = [answers[row] if first else [] for row, first in zip(of_row, firsts, strict=True)]
        extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
        encoded = Encoded(encoding["input_ids"], of_row, extra=extra, targets=targets, notes=notes)
        for row, note in of_answers.items():
            encoded.add_note(row, note)
        return encoded

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        width = max(map(len, sequences))
        tensors = {
            name: torch.tensor([[*row, *[-1] * (width - len(row))] for row in targets[name]], dtype=torch.long)
            for name in ("from", "to")
        }
        single = [name for name in ("null", "start", "end") if name in targets]
        tensors |= {name: torch.tensor(targets[name], dtype=torch.long) for name in single}
        learned = sum(start != UNLEARNED for start in targets.get("start", ()))
        return sequences, Targets(learned, tensors)

    # --- model

    def attach(self, backbone: Backbone) -> None:
        self.attach_positions(backbone, 2, "AutoModelForQuestionAnswering")

    def loss(self, features: Features, targets: Targets) -> Tensor:
        """`targets` holds the positions `start` and `end`, each `[batch]`; `UNLEARNED` where there are none."""
        return self._loss(features, targets, "sum")

    def losses(self, features: Features, targets: Targets) -> Tensor | None:
        return self._loss(features, targets, "none")

    def _loss(self, features: Features, targets: Targets, reduction: str) -> Tensor:
        outputs = self.raw_outputs(features).masked_fill(features.attention_mask.unsqueeze(-1) == 0, -torch.inf)
        start = functional.cross_entropy(outputs[..., START], targets.tensors["start"], reduction=reduction)
        end = functional.cross_entropy(outputs[..., END], targets.tensors["end"], reduction=reduction)
        return (start + end) / 2

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """`logits`: `[batch, seq, 2]`, of each token as start and as end of the answer."""
        return {"logits": self.raw_outputs(features)}

    def decode(self, outputs: Mapping[str, Tensor], targets: Targets) -> list[Any]:
        """Of each chunk, the likeliest answer as [first character, last + 1, score] (None where the chunk has nothing
        of the context), and the score of there being none. Scores are sums of two logits."""
        logits = outputs["logits"]
        begin, stop, null = (targets.tensors[name] for name in ("from", "to", "null"))
        rows = torch.arange(len(logits), device=logits.device)
        nothing = logits[rows, null].sum(dim=1)
        inside = logits[:, : begin.shape[1]].masked_fill((begin < 0).unsqueeze(-1), -torch.inf)
        scores, places = inside.topk(min(self.options.n_best_size, inside.shape[1]), dim=1)
        start, end = places[..., START].unsqueeze(2), places[..., END].unsqueeze(1)
        fits = (end >= start) & (end - start < self.options.max_answer_length)
        pairs = (scores[..., START].unsqueeze(2) + scores[..., END].unsqueeze(1)).masked_fill(~fits, -torch.inf)
        score, pair = pairs.flatten(1).max(dim=1)
        k = pairs.shape[2]
        first = begin[rows, places[rows, pair // k, START]]
        last = stop[rows, places[rows, pair % k, END]]
        found = zip(first.tolist(), last.tolist(), score.tolist(), nothing.tolist(), strict=True)
        return [{"span": [a, b, s] if s > -math.inf else None, "null": n} for a, b, s, n in found]

    def _chosen(self, chunks: Sequence[Any]) -> tuple[int, int, float] | None:
        """Return the best span over a row's chunks; None for no answer."""
        spans = [chunk["span"] for chunk in chunks if chunk["span"] is not None]
        if not spans:
            return None
        start, end, score = max(spans, key=lambda span: span[2])
        none = min(chunk["null"] for chunk in chunks)
        if self.options.version_2_with_negative and none - score > self.options.null_score_diff_threshold:
            return None
        return start, end, score

    def answer(self, predictions: Sequence[Any], row: Mapping[str, Any]) -> dict[str, Any]:
        """`value`: the answer, empty where there is none; `start` and `end`: its place in the context."""
        chosen = self._chosen(predictions)
        if chosen is None:
            return {"value": ""}
        start, end, score = chosen
        return {"value": row[self.options.context][start:end], "start": start, "end": end, "score": score}

    def metrics(self, predictions: Sequence[Any], references: Sequence[Any], loss: float) -> dict[str, float]:
        """Compute SQuAD's metrics as means over rows; the chunks of a row give one answer."""
        begins = [i for i, reference in enumerate(references) if reference["first"]]
        measured = []
        for begin, stop in zip(begins, [*begins[1:], len(references)], strict=True):
            reference, chosen = references[begin], self._chosen(predictions[begin:stop])
            said = reference["context"][chosen[0] : chosen[1]] if chosen is not None else ""
            measured.append([best(m, said, reference["answers"]) for m in (exact_match, word_f1)])
        exact, f1 = np.mean(measured, axis=0).tolist()
        return {"loss": loss, "exact_match": exact, "f1": f1}

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        names = ("first", "context", "answers")
        return [dict(zip(names, cells, strict=True)) for cells in zip(*(targets[n] for n in names), strict=True)]

    def config(self) -> dict[str, Any]:
        return {"id2label": {START: "start", END: "end"}, "label2id": {"start": START, "end": END}}


def _misplaced(text: str, start: float, context: str) -> str:
    """Describe what is wrong with the position of an answer; empty if nothing is."""
    if start != int(start) or start < 0:
        return f"found {start:g}, expected a whole number from 0"
    there = context[int(start) : int(start) + len(text)]
    if there == text:
        return ""
    elsewhere = context.find(text)
    hint = "the context does not hold that answer" if elsewhere < 0 else f"it begins at character {elsewhere}"
    place = f"character {int(start)} of the context"
    return f"found {shown(there)} at {place}, expected the answer {shown(text)} ({hint})"


def _cut(questions: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Truncate the questions to `limit` tokens."""
    encoding = tokenizer(
        list(questions), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )
    offsets = encoding["offset_mapping"]
    return [q if len(o) <= limit else q[: o[limit - 1][1]] for q, o in zip(questions, offsets, strict=True)]


def _places(
    offsets: Sequence[tuple[int, int]], parts: Sequence[int | None], context: str
) -> tuple[list[int], list[int]]:
    """Return the character span of each token in the context, end exclusive; -1 for question and special tokens.

    The space before a word, which some tokenizers include in its token, is left out."""
    begins, ends = [], []
    for (begin, end), part in zip(offsets, parts, strict=True):
        covered = context[begin:end]
        begins.append(begin + len(covered) - len(covered.lstrip()) if part == 1 else -1)
        ends.append(end if part == 1 else -1)
    return begins, ends


def _null(ids: Sequence[int], cls: int | None) -> int:
    """Return the position that means no answer."""
    return ids.index(cls) if cls is not None and cls in ids else 0


def build(options: Options, *, task: str) -> Span:
    return Span(task, options)
