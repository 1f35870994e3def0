"""Check task heads on tiny trunks, with toy rows that can be learned."""

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
from hft_core.testing.check import Check, NotClaimed, Subject, check, expect
from hft_core.testing.head_output_checks import CHECKS as OUTPUT_CHECKS
from hft_core.testing.head_output_checks import TOLERANCE, difference, expect_numbers
from hft_core.testing.toy_task import ROWS, TASK, ToyTask, float32_machine, toy_tasks
from hft_core.training.evaluation import score_task

CHECKS: list[Check] = [*OUTPUT_CHECKS]
STEPS = 30
LEARNED = 0.1
"""The least relative decrease of the loss in `STEPS`."""
SHORT = 12
"""Tokens: shorter than some of the toy texts."""


@check("head", CHECKS)
def its_facts_are_those_of_the_spec(subject: Subject) -> None:
    """`supervised` equals the spec's `needs_labels`, and the head has columns and a main metric."""
    head = subject.build(task=TASK)
    claimed = subject.spec.needs_labels
    expect(head.supervised == claimed, f"supervised={claimed}, as the spec's needs_labels", head.supervised)
    expect(bool(head.columns()), "columns that the head reads", "none")
    expect(bool(head.main_metric), "a main metric", repr(head.main_metric))


@check("head", CHECKS)
def no_sequence_is_longer_than_it_may_be(subject: Subject) -> None:
    """`encode` respects `max_length`, and makes at least one example of each row."""
    for family, toy in toy_tasks(subject, max_length=SHORT):
        longest = int(toy.examples.lengths.max())
        expect(longest <= SHORT, f"{family}: at most {SHORT} tokens", longest)
        rows = toy.examples.rows
        expect(bool((rows >= 0).all() and (rows < ROWS).all()), f"{family}: row numbers below {ROWS}", rows.tolist())
        expect(len(set(rows.tolist())) == ROWS, f"{family}: an example of each of {ROWS} rows", len(set(rows.tolist())))


@check("head", CHECKS)
def one_draw_gives_one_collation(subject: Subject) -> None:
    """`collate` is a pure function: equal results for equal arguments, which it does not modify."""
    for family, toy in toy_tasks(subject):
        ids = list(range(min(8, len(toy.examples))))
        first, second = (toy.examples.draw(ids, toy.head, Draw(0, 2)) for _ in range(2))
        expect(first.sequences == second.sequences, f"{family}: equal sequences from one draw", "different ones")
        one, other = first.targets, second.targets
        same = one.count == other.count and all(torch.equal(t, other.tensors[n]) for n, t in one.tensors.items())
        expect(same, f"{family}: equal targets from one draw", "different ones")


@check("head", CHECKS)
def sequences_are_changed_only_where_it_says_so(subject: Subject) -> None:
    """Without `changes_sequences`, `collate` returns the given sequences, so that tasks can share their encoding."""
    for family, toy in toy_tasks(subject):
        if toy.head.changes_sequences:
            raise NotClaimed("the head says changes_sequences")
        for epoch in range(3):
            shown, given = _shown_and_given(toy, Draw(0, epoch))
            expect(shown == given, f"{family}: sequences as they were encoded, or changes_sequences", "others")


def _shown_and_given(toy: ToyTask, draw: Draw) -> tuple[list[list[int]], list[list[int]]]:
    """Return the sequences of all examples as collated by the head, and as given to it."""
    given: list[list[int]] = []

    def collate(sequences: list[list[int]], *rest: Any) -> Any:
        given.extend(list(sequence) for sequence in sequences)
        return toy.head.collate(sequences, *rest)

    between: Any = SimpleNamespace(collate=collate)
    return toy.examples.draw(range(len(toy.examples)), between, draw).sequences, given


@check("head", CHECKS)
def the_loss_is_a_finite_scalar(subject: Subject) -> None:
    """`loss` is a finite scalar with a gradient, and the batch has targets."""
    for family, toy in toy_tasks(subject):
        (batch, *_) = toy.batches()
        loss = toy.loss(batch)
        expect(loss.shape == (), f"{family}: a scalar", f"the shape {tuple(loss.shape)}")
        expect(bool(torch.isfinite(loss)), f"{family}: a finite loss", loss.item())
        expect(loss.requires_grad, f"{family}: a loss with a gradient", "none")
        count = batch.segments[0].targets.count
        expect(count > 0, f"{family}: targets in labelled rows", count)


@check("head", CHECKS)
def the_loss_is_a_sum_over_targets(subject: Subject) -> None:
    """Loss and number of targets of a batch are the sums of those of its parts."""
    for family, toy in toy_tasks(subject):
        if toy.head.joint:
            raise NotClaimed("the loss compares all rows of a step (joint)")
        with torch.no_grad():
            whole, parts = toy.batches(), toy.batches(rows=max(1, int(toy.examples.sizes.max())) * 3)
            total, divided = (sum(float(toy.loss(batch)) for batch in each) for each in (whole, parts))
        counts = [sum(batch.segments[0].targets.count for batch in each) for each in (whole, parts)]
        expect(counts[0] == counts[1], f"{family}: {counts[0]} targets in the parts as in the whole", counts[1])
        close = math.isclose(total, divided, rel_tol=1e-3, abs_tol=1e-3)
        expect(
            close, f"{family}: {len(parts)} parts with a sum of losses of {total:.5f}, as the whole", f"{divided:.5f}"
        )


@check("head", CHECKS)
def the_joint_loss_is_the_loss_of_embeddings(subject: Subject) -> None:
    """For a joint head: `embed` returns one embedding for each row, and `joint_loss` of them equals `loss`."""
    for family, toy in toy_tasks(subject):
        if not toy.head.joint:
            raise NotClaimed("the loss is a sum over rows")
        (batch, *_) = toy.batches()
        with torch.no_grad():
            segment, features = toy.seen(batch)
            embeddings = toy.head.embed(features)
            expect(len(embeddings) == batch.rows, f"{family}: {batch.rows} embeddings", len(embeddings))
            one, other = (
                toy.head.loss(features, segment.targets),
                toy.head.joint_loss(embeddings, segment.targets),
            )
        close = torch.allclose(one, other, rtol=1e-4, atol=1e-4)
        expect(close, f"{family}: the joint loss {float(one):.5f}, as the loss", f"{float(other):.5f}")


@check("head", CHECKS)
def the_loss_falls_on_rows_that_can_be_learned(subject: Subject) -> None:
    """Training trunk and head on toy rows decreases the mean loss by at least a tenth."""
    for family, toy in toy_tasks(subject):
        before = toy.mean_loss()
        toy.train(STEPS)
        after = toy.mean_loss()
        limit = before - LEARNED * abs(before)
        fell = math.isfinite(after) and after < limit
        expect(fell, f"{family}: a mean loss below {limit:.4f} after {STEPS} steps", f"{after:.4f}")


@check("head", CHECKS)
def rows_without_targets_give_no_nan(subject: Subject) -> None:
    """Rows without target columns can be tokenized and predicted, one prediction for each example, without NaN."""
    for family, toy in toy_tasks(subject):
        targets = [column.name for column in toy.head.columns() if column.target]
        bare = [{key: cell for key, cell in row.items() if key not in targets} for row in toy.rows["dev"]]
        backbone = toy.model.backbone
        examples = encode(loading.from_python(bare, task=TASK), toy.head, backbone.tokenizer, backbone.max_length)
        for batch in toy.batches(examples):
            said = toy.predictions(batch)
            expect(len(said) in (0, batch.rows), f"{family}: {batch.rows} predictions, or none", len(said))
            expect_numbers(said, f"{family}: predictions")


@check("head", CHECKS)
def padding_changes_nothing(subject: Subject) -> None:
    """Loss and predictions do not depend on the amount of padding."""
    for family, toy in toy_tasks(subject):
        toy.train(3)
        (batch, *_) = toy.batches(toy.examples.of(np.arange(4)))
        wide = _padded(batch, toy.model.backbone.tokenizer.pad_token_id)
        with torch.no_grad():
            one, other = float(toy.loss(batch)), float(toy.loss(wide))
        close = math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
        expect(close, f"{family}: the loss {one:.5f} with more padding as well", f"{other:.5f}")
        apart = difference(toy.predictions(batch), toy.predictions(wide))
        expect(apart <= TOLERANCE, f"{family}: equal predictions with more padding", f"a difference of {apart}")


@check("head", CHECKS)
def metrics_are_finite_and_hold_the_main_one(subject: Subject) -> None:
    """`metrics` returns finite numbers, including the main metric, which training does not worsen."""
    for family, toy in toy_tasks(subject):
        before, after = _metrics(toy), None
        toy.train(STEPS)
        after = _metrics(toy)
        for metrics in (before, after):
            name = toy.head.main_metric
            expect(name in metrics, f"{family}: the main metric '{name}'", ", ".join(metrics))
            odd = [n for n, value in metrics.items() if not isinstance(value, float) or not math.isfinite(value)]
            expect(not odd, f"{family}: finite metrics", {n: metrics[n] for n in odd})
        sign = 1 if toy.head.greater_is_better else -1
        old, new = before[toy.head.main_metric], after[toy.head.main_metric]
        expect(sign * (new - old) >= 0, f"{family}: a '{toy.head.main_metric}' not worse than {old:.4f}", f"{new:.4f}")


def _metrics(toy: ToyTask) -> dict[str, float]:
    """Evaluate the head on its training rows."""
    return score_task(toy.model, TASK, toy.examples, float32_machine(), seed=0)


@check("head", CHECKS)
def facts_and_weights_are_the_whole_head(subject: Subject) -> None:
    """A new head with the facts (as JSON) and weights of another one has the same loss and predictions."""
    for family, toy in toy_tasks(subject):
        toy.train(3)
        (batch, *_) = toy.batches(toy.examples.of(np.arange(6)))
        with torch.no_grad():
            said, loss = toy.predictions(batch), float(toy.loss(batch))
        torch.manual_seed(99)
        again = subject.build(task=TASK)
        again.facts = json.loads(json.dumps(toy.head.facts))
        again.attach(toy.model.backbone)
        again.load_state_dict(toy.head.state_dict())
        again.eval()
        toy.head = toy.model.heads[TASK] = again
        with torch.no_grad():
            apart = difference(said, toy.predictions(batch))
            loss_again = float(toy.loss(batch))
        expect(apart <= TOLERANCE, f"{family}: equal predictions of the new head", f"a difference of {apart}")
        close = math.isclose(loss, loss_again, rel_tol=1e-4, abs_tol=1e-4)
        expect(close, f"{family}: the loss {loss:.5f} of the new head as well", f"{loss_again:.5f}")


@check("head", CHECKS)
def export_and_import_are_inverse(subject: Subject) -> None:
    """`import_state` inverts `export_state`, for heads whose module is the model family's."""
    for family, toy in toy_tasks(subject):
        module = toy.head.family
        if module is None:
            raise NotClaimed("the head's module is its own")
        state = module.plain_state()
        again = toy.head.import_state(toy.head.export_state(state))
        odd = sorted(state.keys() ^ again.keys()) or [n for n, t in state.items() if not torch.equal(t, again[n])]
        expect(not odd, f"{family}: the exported state again", f"{len(odd)} other tensors: {', '.join(odd[:3])}")


@check("head", CHECKS)
def bfloat16_autocast_trains(subject: Subject) -> None:
    """Under bfloat16 autocast the loss is close to that in float32, and its gradients are finite."""
    for family, toy in toy_tasks(subject):
        (batch, *_) = toy.batches()
        exact = toy.loss(batch).item()
        with torch.autocast("cpu", torch.bfloat16):
            loss = toy.loss(batch)
        near = math.isclose(loss.item(), exact, rel_tol=0.1, abs_tol=0.1)
        expect(near, f"{family}: a loss near {exact:.4f}", loss.item())
        loss.backward()  # type: ignore[no-untyped-call]
        odd = [n for n, p in toy.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        expect(not odd, f"{family}: finite gradients", f"{len(odd)} that are not: {', '.join(odd[:3])}")


def _padded(batch: Batch, pad: int) -> Batch:
    """The same rows with five more columns of padding."""
    inputs: dict[str, Tensor] = {}
    for name, tensor in batch.inputs.items():
        filler = pad if name == "input_ids" else 0
        own_length = name.startswith(OWN_LENGTH)
        inputs[name] = tensor if own_length else torch.nn.functional.pad(tensor, (0, 5), value=filler)
    return replace(batch, inputs=inputs)
