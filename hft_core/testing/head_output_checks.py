"""Check what a head predicts, and its losses by example."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from hft_core.testing.check import Check, Failed, NotClaimed, Subject, check, expect
from hft_core.testing.toy_task import toy_tasks

CHECKS: list[Check] = []
TOLERANCE = 1e-4


@check("head", CHECKS)
def there_is_one_prediction_an_example(subject: Subject) -> None:
    """`predict` returns one prediction for each example, which JSON can hold, and `references` the value to compare it
    with; both are empty for a head that only has a loss."""
    for family, toy in toy_tasks(subject):
        (batch, *_) = toy.batches()
        said = toy.predictions(batch)
        if not said:
            raise NotClaimed("the head predicts nothing")
        expect(len(said) == batch.rows, f"{family}: {batch.rows} predictions", len(said))
        try:
            json.dumps(said)
        except TypeError as error:
            raise Failed(f"expected {family}: predictions that JSON can hold; found {error}") from error
        references = toy.examples.references(toy.examples.answered(toy.head), toy.head)
        expect(len(references) == len(toy.examples), f"{family}: {len(toy.examples)} references", len(references))


@check("head", CHECKS)
def predictions_are_decoded_from_outputs(subject: Subject) -> None:
    """`outputs` returns tensors by name with an entry for each example, and `predict` what `decode` makes of them."""
    for family, toy in toy_tasks(subject):
        (batch, *_) = toy.batches()
        with torch.no_grad():
            segment, features = toy.seen(batch)
            tensors = toy.head.outputs(features)
            if not tensors:
                raise NotClaimed("the head names no tensors (outputs)")
            named = isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())
            expect(named, f"{family}: a dict of tensors", type(tensors).__name__)
            sizes = {name: len(tensor) for name, tensor in tensors.items()}
            expect(set(sizes.values()) == {batch.rows}, f"{family}: {batch.rows} entries in each tensor", sizes)
            decoded = toy.head.decode(tensors, segment.targets)
        apart = difference(decoded, toy.predictions(batch))
        expect(apart <= TOLERANCE, f"{family}: the predictions from its outputs", f"a difference of {apart}")


@check("head", CHECKS)
def losses_of_examples_add_up_to_the_loss(subject: Subject) -> None:
    """`losses` returns the loss of each example, whose sum is `loss`."""
    for family, toy in toy_tasks(subject):
        (batch, *_) = toy.batches()
        with torch.no_grad():
            segment, features = toy.seen(batch)
            losses = toy.head.losses(features, segment.targets)
            if losses is None:
                raise NotClaimed("the head has no losses by example")
            expect(losses.shape == (batch.rows,), f"{family}: {batch.rows} losses", tuple(losses.shape))
            one, other = float(losses.sum()), float(toy.head.loss(features, segment.targets))
        close = math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
        expect(close, f"{family}: losses that add up to {other:.5f}", f"{one:.5f}")


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


def difference(one: list[Any], other: list[Any]) -> float:
    """The largest difference of the numbers in nested lists; infinite where anything else differs."""
    left, right = _leaves(one), _leaves(other)
    if len(left) != len(right):
        return math.inf
    numbers = [(a, b) for a, b in zip(left, right, strict=True) if isinstance(a, float) and isinstance(b, float)]
    others = [(a, b) for a, b in zip(left, right, strict=True) if not (isinstance(a, float) and isinstance(b, float))]
    if any(a != b for a, b in others):
        return math.inf
    return max((abs(a - b) for a, b in numbers), default=0.0)
