"""What every task head does, on each tiny trunk that it takes, with rows that can be learned."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hft_core.batching.batch import Batch
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.head import OWN_LENGTH, Draw
from hft_core.testing.check import Check, Failed, NotClaimed, Subject, check, expect
from hft_core.testing.lesson import ROWS, TASK, Lesson, here, lessons
from hft_core.training.evaluation import score_task

CHECKS: list[Check] = []
TOLERANCE = 1e-4
STEPS = 30
LEARNED = 0.1
"""The share of its first value that the loss falls by, at least, in `STEPS`."""
SHORT = 12
"""Tokens: shorter than some of the toy texts."""


@check("head", CHECKS)
def its_facts_are_those_of_the_spec(subject: Subject) -> None:
    """`supervised` and the spec's `needs_labels` are the same; a supervised head has a target column."""
    head = subject.build(task=TASK)
    claimed = subject.spec.needs_labels
    expect(head.supervised == claimed, f"supervised={claimed}, as the spec's needs_labels", head.supervised)
    expect(bool(head.columns()), "columns that the head reads", "none")
    expect(bool(head.main_metric), "a main metric", repr(head.main_metric))


@check("head", CHECKS)
def no_sequence_is_longer_than_it_may_be(subject: Subject) -> None:
    """`encode` keeps to `max_length`, and every example belongs to a row, in the order of the rows."""
    for family, lesson in lessons(subject, max_length=SHORT):
        longest = int(lesson.examples.lengths.max())
        expect(longest <= SHORT, f"{family}: at most {SHORT} tokens", longest)
        rows = lesson.examples.rows
        expect(bool((rows >= 0).all() and (rows < ROWS).all()), f"{family}: row numbers below {ROWS}", rows.tolist())
        expect(len(set(rows.tolist())) == ROWS, f"{family}: an example of each of {ROWS} rows", len(set(rows.tolist())))


@check("head", CHECKS)
def one_draw_gives_one_collation(subject: Subject) -> None:
    """`collate` is a function of its arguments alone: the same twice, and they are left as they were."""
    for family, lesson in lessons(subject):
        ids = list(range(min(8, len(lesson.examples))))
        first, second = (lesson.examples.draw(ids, lesson.head, Draw(0, 2)) for _ in range(2))
        expect(first.sequences == second.sequences, f"{family}: equal sequences from one draw", "different ones")
        one, other = first.targets, second.targets
        same = one.count == other.count and all(torch.equal(t, other.tensors[n]) for n, t in one.tensors.items())
        expect(same, f"{family}: equal targets from one draw", "different ones")


@check("head", CHECKS)
def sequences_are_changed_only_where_it_says_so(subject: Subject) -> None:
    """Without `changes_sequences`, `collate` gives the sequences that it was given, so that other tasks can share their
    encoding."""
    for family, lesson in lessons(subject):
        if lesson.head.changes_sequences:
            raise NotClaimed("the head says changes_sequences")
        for epoch in range(3):
            shown, given = _shown_and_given(lesson, Draw(0, epoch))
            expect(shown == given, f"{family}: sequences as they were encoded, or changes_sequences", "others")


def _shown_and_given(lesson: Lesson, draw: Draw) -> tuple[list[list[int]], list[list[int]]]:
    """The sequences of all examples as the head shows them, and as it was given them."""
    given: list[list[int]] = []

    def collate(sequences: list[list[int]], *rest: Any) -> Any:
        given.extend(list(sequence) for sequence in sequences)
        return lesson.head.collate(sequences, *rest)

    between: Any = SimpleNamespace(collate=collate)
    return lesson.examples.draw(range(len(lesson.examples)), between, draw).sequences, given


@check("head", CHECKS)
def the_loss_is_a_finite_scalar(subject: Subject) -> None:
    """`loss` is a finite scalar with a gradient, and the batch has targets to sum it over."""
    for family, lesson in lessons(subject):
        (batch, *_) = lesson.batches()
        loss = lesson.loss(batch)
        expect(loss.shape == (), f"{family}: a scalar", f"the shape {tuple(loss.shape)}")
        expect(bool(torch.isfinite(loss)), f"{family}: a finite loss", loss.item())
        expect(loss.requires_grad, f"{family}: a loss with a gradient", "none")
        count = batch.segments[0].targets.count
        expect(count > 0, f"{family}: targets in labelled rows", count)


@check("head", CHECKS)
def the_loss_is_a_sum_over_targets(subject: Subject) -> None:
    """The loss of a batch is the sum of the losses of its parts, and its count of targets the sum of theirs."""
    for family, lesson in lessons(subject):
        if lesson.head.joint:
            raise NotClaimed("the loss compares all rows of a step (joint)")
        with torch.no_grad():
            whole, parts = lesson.batches(), lesson.batches(rows=max(1, int(lesson.examples.sizes.max())) * 3)
            total, divided = (sum(float(lesson.loss(batch)) for batch in each) for each in (whole, parts))
        counts = [sum(batch.segments[0].targets.count for batch in each) for each in (whole, parts)]
        expect(counts[0] == counts[1], f"{family}: {counts[0]} targets in the parts as in the whole", counts[1])
        close = math.isclose(total, divided, rel_tol=1e-3, abs_tol=1e-3)
        expect(
            close, f"{family}: {len(parts)} parts with a sum of losses of {total:.5f}, as the whole", f"{divided:.5f}"
        )


@check("head", CHECKS)
def the_joint_loss_is_the_loss_of_embeddings(subject: Subject) -> None:
    """Of a joint head: `joint_loss` of what `embed` makes of a batch, one embedding an example, is its `loss`."""
    for family, lesson in lessons(subject):
        if not lesson.head.joint:
            raise NotClaimed("the loss is a sum over rows")
        (batch, *_) = lesson.batches()
        with torch.no_grad():
            segment, features = lesson.seen(batch)
            embeddings = lesson.head.embed(features)
            expect(len(embeddings) == batch.rows, f"{family}: {batch.rows} embeddings", len(embeddings))
            one, other = (
                lesson.head.loss(features, segment.targets),
                lesson.head.joint_loss(embeddings, segment.targets),
            )
        close = torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        expect(close, f"{family}: the joint loss {float(one):.5f}, as the loss", f"{float(other):.5f}")


@check("head", CHECKS)
def the_loss_falls_on_rows_that_can_be_learned(subject: Subject) -> None:
    """Trunk and head together learn the toy rows: the mean loss falls by a tenth or more, and stays finite."""
    for family, lesson in lessons(subject):
        before = lesson.mean_loss()
        lesson.train(STEPS)
        after = lesson.mean_loss()
        limit = before - LEARNED * abs(before)
        fell = math.isfinite(after) and after < limit
        expect(fell, f"{family}: a mean loss below {limit:.4f} after {STEPS} steps", f"{after:.4f}")


@check("head", CHECKS)
def rows_without_targets_give_no_nan(subject: Subject) -> None:
    """Rows that lack their target columns can be tokenised and predicted on, one prediction an example, without NaN."""
    for family, lesson in lessons(subject):
        targets = [column.name for column in lesson.head.columns() if column.target]
        bare = [{key: cell for key, cell in row.items() if key not in targets} for row in lesson.rows["dev"]]
        backbone = lesson.model.backbone
        examples = encode(loading.from_python(bare, task=TASK), lesson.head, backbone.tokenizer, backbone.max_length)
        for batch in lesson.batches(examples):
            said = lesson.predictions(batch)
            expect(len(said) in (0, batch.rows), f"{family}: {batch.rows} predictions, or none", len(said))
            expect_numbers(said, f"{family}: predictions")


@check("head", CHECKS)
def padding_changes_nothing(subject: Subject) -> None:
    """Rows that are padded further have the same loss and the same predictions."""
    for family, lesson in lessons(subject):
        lesson.train(3)
        (batch, *_) = lesson.batches(lesson.examples.of(np.arange(4)))
        wide = _padded(batch, lesson.model.backbone.tokenizer.pad_token_id)
        with torch.no_grad():
            one, other = float(lesson.loss(batch)), float(lesson.loss(wide))
        close = math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
        expect(close, f"{family}: the loss {one:.5f} with more padding as well", f"{other:.5f}")
        difference = _difference(lesson.predictions(batch), lesson.predictions(wide))
        expect(
            difference <= TOLERANCE, f"{family}: equal predictions with more padding", f"a difference of {difference}"
        )


@check("head", CHECKS)
def there_is_one_prediction_an_example(subject: Subject) -> None:
    """`predict` gives one JSON-able prediction an example, and `references` one to compare with; both lists are empty
    for a head that only has a loss."""
    for family, lesson in lessons(subject):
        (batch, *_) = lesson.batches()
        said = lesson.predictions(batch)
        if not said:
            raise NotClaimed("the head predicts nothing")
        expect(len(said) == batch.rows, f"{family}: {batch.rows} predictions", len(said))
        try:
            json.dumps(said)
        except TypeError as error:
            raise Failed(f"expected {family}: predictions that JSON can hold; found {error}") from error
        references = lesson.examples.references(range(len(lesson.examples)), lesson.head)
        expect(len(references) == len(lesson.examples), f"{family}: {len(lesson.examples)} references", len(references))


@check("head", CHECKS)
def metrics_are_finite_and_hold_the_main_one(subject: Subject) -> None:
    """`metrics` of predictions, references and mean loss are finite numbers, the main metric among them, before and
    after training; the better model scores no worse."""
    for family, lesson in lessons(subject):
        before, after = _metrics(lesson), None
        lesson.train(STEPS)
        after = _metrics(lesson)
        for metrics in (before, after):
            name = lesson.head.main_metric
            expect(name in metrics, f"{family}: the main metric '{name}'", ", ".join(metrics))
            odd = [n for n, value in metrics.items() if not isinstance(value, float) or not math.isfinite(value)]
            expect(not odd, f"{family}: finite metrics", {n: metrics[n] for n in odd})
        sign = 1 if lesson.head.greater_is_better else -1
        old, new = before[lesson.head.main_metric], after[lesson.head.main_metric]
        expect(
            sign * (new - old) >= 0, f"{family}: a '{lesson.head.main_metric}' not worse than {old:.4f}", f"{new:.4f}"
        )


def _metrics(lesson: Lesson) -> dict[str, float]:
    """The head's metrics on its training rows, as an evaluation computes them."""
    return score_task(lesson.model, TASK, lesson.examples, here(), seed=0)


@check("head", CHECKS)
def facts_and_weights_are_the_whole_head(subject: Subject) -> None:
    """A new head with the facts of the old one (through JSON) and its weights has the same loss and predictions."""
    for family, lesson in lessons(subject):
        lesson.train(3)
        (batch, *_) = lesson.batches(lesson.examples.of(np.arange(6)))
        with torch.no_grad():
            said, loss = lesson.predictions(batch), float(lesson.loss(batch))
        torch.manual_seed(99)
        again = subject.build(task=TASK)
        again.facts = json.loads(json.dumps(lesson.head.facts))
        again.attach(lesson.model.backbone)
        again.load_state_dict(lesson.head.state_dict())
        again.eval()
        lesson.head = lesson.model.heads[TASK] = again
        with torch.no_grad():
            difference = _difference(said, lesson.predictions(batch))
            loss_again = float(lesson.loss(batch))
        expect(difference <= TOLERANCE, f"{family}: equal predictions of the new head", f"a difference of {difference}")
        close = math.isclose(loss, loss_again, rel_tol=1e-4, abs_tol=1e-4)
        expect(close, f"{family}: the loss {loss:.5f} of the new head as well", f"{loss_again:.5f}")


@check("head", CHECKS)
def export_and_import_are_inverse(subject: Subject) -> None:
    """`import_state` of `export_state` is the state that was exported, for heads whose module the family made."""
    for family, lesson in lessons(subject):
        module = lesson.head.family
        if module is None:
            raise NotClaimed("the head's module is its own")
        state = module.plain_state()
        again = lesson.head.import_state(lesson.head.export_state(state))
        odd = sorted(state.keys() ^ again.keys()) or [n for n, t in state.items() if not torch.equal(t, again[n])]
        expect(not odd, f"{family}: the exported state again", f"{len(odd)} other tensors: {', '.join(odd[:3])}")


@check("head", CHECKS)
def bfloat16_autocast_trains(subject: Subject) -> None:
    """Under bfloat16 autocast the loss is finite, close to that in float32, and has finite gradients."""
    for family, lesson in lessons(subject):
        (batch, *_) = lesson.batches()
        exact = lesson.loss(batch).item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = lesson.loss(batch)
        near = math.isclose(loss.item(), exact, rel_tol=0.1, abs_tol=0.1)
        expect(near, f"{family}: a loss near {exact:.4f}", loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        odd = [n for n, p in lesson.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        expect(not odd, f"{family}: finite gradients", f"{len(odd)} that are not: {', '.join(odd[:3])}")


def expect_numbers(values: Any, what: str) -> None:
    """Raise `Failed` when a number somewhere in nested `values` is not finite."""
    odd = [value for value in _leaves(values) if isinstance(value, float) and not math.isfinite(value)]
    expect(not odd, f"{what} of finite numbers", odd[:3])


def _leaves(values: Any) -> list[Any]:
    if isinstance(values, dict):
        return [leaf for value in values.values() for leaf in _leaves(value)]
    if isinstance(values, list | tuple):
        return [leaf for value in values for leaf in _leaves(value)]
    return [values]


def _difference(one: list[Any], other: list[Any]) -> float:
    """The largest difference of the numbers in nested lists; infinite where anything else differs."""
    left, right = _leaves(one), _leaves(other)
    if len(left) != len(right):
        return math.inf
    numbers = [(a, b) for a, b in zip(left, right, strict=True) if isinstance(a, float) and isinstance(b, float)]
    others = [(a, b) for a, b in zip(left, right, strict=True) if not (isinstance(a, float) and isinstance(b, float))]
    if any(a != b for a, b in others):
        return math.inf
    return max((abs(a - b) for a, b in numbers), default=0.0)


def _padded(batch: Batch, pad: int) -> Batch:
    """The same rows with five more columns of padding."""
    inputs: dict[str, Tensor] = {}
    for name, tensor in batch.inputs.items():
        filler = pad if name == "input_ids" else 0
        own_length = name.startswith(OWN_LENGTH)
        inputs[name] = tensor if own_length else torch.nn.functional.pad(tensor, (0, 5), value=filler)
    return replace(batch, inputs=inputs)
