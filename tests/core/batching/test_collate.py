from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hft_core.batching.batch import Batch
from hft_core.batching.buckets import CALL_TOKENS, LENGTH_STEP
from hft_core.batching.collate import Collator
from hft_core.batching.plan import TaskSlice
from hft_core.data.examples import Examples
from hft_core.head import Column, Draw, Encoded, Head, Targets

PAD = 99


class Echo(Head):
    """Targets are the example numbers and the epoch that they were drawn for."""

    main_metric = "loss"

    def columns(self) -> Sequence[Column]:
        return []

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        raise AssertionError("batches are made of rows that are encoded")

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensors = {"example": torch.tensor(examples), "epoch": torch.full((len(examples),), draw.epoch)}
        return sequences, Targets(len(examples), tensors)

    def attach(self, backbone: Any) -> None:
        raise AssertionError("no model is made here")

    def loss(self, features: Any, targets: Targets) -> Any:
        raise AssertionError("nothing is learned here")


def examples_of(lengths: Sequence[int], first: int = 0, **extra: list[list[int]]) -> Examples:
    """Rows of the given lengths; row i is filled with the token `first + i`."""
    sequences = [[first + i] * length for i, length in enumerate(lengths)]
    columns = {"_sequence": sequences, "_row": list(range(len(lengths))), "_length": list(lengths)}
    columns |= {"_first": [True] * len(lengths)} | {f"extra.{name}": values for name, values in extra.items()}
    return Examples([pa.table(columns)])


def made(
    lengths: Mapping[str, Sequence[int]],
    parts: Sequence[TaskSlice] | None = None,
    *,
    max_units: int = 1000,
    max_tokens: int | None = None,
    one_task_per_batch: bool = False,
) -> list[Batch]:
    examples = {task: examples_of(values, 1000 * i) for i, (task, values) in enumerate(lengths.items())}
    collator = Collator(examples, {task: Echo(task) for task in lengths}, seed=0, pad=PAD)
    return collator.step_batches(
        parts or [TaskSlice(task, 0, np.arange(len(values))) for task, values in lengths.items()],
        max_units=max_units,
        max_tokens=max_tokens,
        one_task_per_batch=one_task_per_batch,
    )


def contents(batches: Sequence[Batch]) -> list[tuple[str, int]]:
    return sorted((s.task, int(i)) for batch in batches for s in batch.segments for i in s.examples)


@settings(max_examples=80, deadline=None)
@given(
    one=st.lists(st.integers(1, 90), min_size=1, max_size=25),
    two=st.lists(st.integers(1, 90), max_size=25),
    max_units=st.integers(1, 30),
    max_tokens=st.none() | st.integers(10, 500),
    one_task_per_batch=st.booleans(),
)
def test_each_row_is_in_exactly_one_batch_and_limits_hold(
    one: list[int], two: list[int], max_units: int, max_tokens: int | None, one_task_per_batch: bool
) -> None:
    lengths = {"one": one, "two": two} if two else {"one": one}
    batches = made(lengths, max_units=max_units, max_tokens=max_tokens, one_task_per_batch=one_task_per_batch)
    assert contents(batches) == sorted((task, i) for task, values in lengths.items() for i in range(len(values)))
    for batch in batches:
        rows, width = batch.inputs["input_ids"].shape
        assert rows <= max_units
        assert max_tokens is None or rows * width <= max_tokens or rows == 1
        assert not one_task_per_batch or len(batch.segments) == 1
        assert width == int(batch.inputs["attention_mask"].sum(dim=1).max())


@pytest.mark.parametrize("seed", range(6))
def test_padding_is_the_least_that_any_division_into_runs_of_like_length_has(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 400, size=9).tolist()
    steps = [-(-length // LENGTH_STEP) * LENGTH_STEP for length in sorted(lengths)]

    def cost(cuts: Sequence[int]) -> int:
        return sum((end - start) * steps[end - 1] + CALL_TOKENS for start, end in pairwise([0, *cuts, len(steps)]))

    least = min(cost([i for i in range(1, len(steps)) if bits >> (i - 1) & 1]) for bits in range(1 << len(steps) - 1))
    sizes = [batch.rows for batch in made({"a": lengths})]
    assert cost(np.cumsum(sizes)[:-1].tolist()) == least


def test_a_batch_holds_several_tasks_each_in_its_own_segment() -> None:
    (batch,) = made({"one": [3, 5], "two": [4]})
    assert [(s.task, s.rows, s.examples.tolist()) for s in batch.segments] == [
        ("one", slice(0, 2), [0, 1]),
        ("two", slice(2, 3), [0]),
    ]
    for segment in batch.segments:
        first = 1000 * ["one", "two"].index(segment.task)
        assert (batch.inputs["input_ids"][segment.rows, 0] - first).tolist() == segment.examples.tolist()
        assert segment.targets.tensors["example"].tolist() == segment.examples.tolist()


def test_padding_is_on_the_right_and_masked() -> None:
    (batch,) = made({"one": [1, 3]})
    assert batch.inputs["input_ids"].tolist() == [[0, PAD, PAD], [1, 1, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert (batch.rows, batch.tokens) == (2, 4)


def test_rows_of_two_epochs_in_one_step_are_drawn_for_their_own_epoch() -> None:
    parts = [TaskSlice("a", 3, np.array([2, 0])), TaskSlice("a", 4, np.array([0, 1]))]
    (batch,) = made({"a": [3, 3, 3]}, parts)
    drawn = [(s.examples.tolist(), s.targets.tensors["epoch"].tolist()) for s in batch.segments]
    assert drawn == [([2, 0], [3, 3]), ([0, 1], [4, 4])]


def test_further_inputs_are_padded_with_zeros_also_for_tasks_that_do_not_give_them() -> None:
    examples = {"one": examples_of([2, 3], token_type_ids=[[0, 1], [1, 1, 1]]), "two": examples_of([4])}
    parts = [TaskSlice("one", 0, np.arange(2)), TaskSlice("two", 0, np.arange(1))]
    (batch,) = Collator(
        examples,
        {task: Echo(task) for task in examples},
        seed=0,
        pad=PAD,
    ).step_batches(parts, max_units=9, max_tokens=None)
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40), rows=st.integers(1, 9), tokens=st.integers(1, 400)
)
def test_evaluation_sees_each_row_once_shortest_first_within_limits(lengths: list[int], rows: int, tokens: int) -> None:
    batches = list(
        Collator({"a": examples_of(lengths)}, {"a": Echo("a")}, seed=0, pad=PAD).in_length_order(
            max_rows=rows, max_tokens=tokens
        )
    )
    order = [int(i) for batch in batches for i in batch.segments[0].examples]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths)
    for batch in batches:
        assert batch.rows <= rows
        assert batch.inputs["input_ids"].numel() <= tokens or batch.rows == 1
        assert set(batch.segments[0].targets.tensors["epoch"].tolist()) == {-1}


def test_inputs_with_a_length_of_their_own_are_padded_to_it_and_share_a_batch_with_no_task_that_has_none() -> None:
    examples = {
        "write": examples_of([5, 3], decoder_input_ids=[[7, 8], [9, 9, 9, 9, 9, 9, 9]]),
        "read": examples_of([4, 4], first=100),
    }
    batches = Collator(examples, {task: Echo(task) for task in examples}, seed=0, pad=PAD).step_batches(
        [TaskSlice("write", 0, np.arange(2)), TaskSlice("read", 0, np.arange(2))], max_units=10, max_tokens=None
    )
    assert contents(batches) == [("read", 0), ("read", 1), ("write", 0), ("write", 1)]
    (write,) = [batch for batch in batches if "decoder_input_ids" in batch.inputs]
    assert {segment.task for segment in write.segments} == {"write"}
    assert write.inputs["input_ids"].shape == (2, 5)
    assert write.inputs["decoder_input_ids"].tolist() == [[7, 8, 0, 0, 0, 0, 0], [9] * 7]


def units_of(sizes: Sequence[int], lengths: Sequence[int]) -> Examples:
    """Units of so many examples, all of them as long as given."""
    total = sum(sizes)
    table = {
        "_sequence": [[1] * length for size, length in zip(sizes, lengths, strict=True) for _ in range(size)],
        "_row": list(range(total)),
        "_length": [length for size, length in zip(sizes, lengths, strict=True) for _ in range(size)],
        "_first": [i == 0 for size in sizes for i in range(size)],
    }
    return Examples([pa.table(table)])


@given(
    units=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 60)), min_size=1, max_size=20),
    max_units=st.integers(1, 8),
    max_tokens=st.one_of(st.none(), st.integers(20, 400)),
)
@settings(deadline=None, max_examples=60)
def test_a_unit_is_never_divided_and_limits_hold_for_its_rows(
    units: list[tuple[int, int]], max_units: int, max_tokens: int | None
) -> None:
    examples = units_of([size for size, _ in units], [length for _, length in units])
    parts = [TaskSlice("a", 0, np.arange(len(units)))]
    collator = Collator({"a": examples}, {"a": Echo("a")}, seed=0, pad=PAD)
    batches = collator.step_batches(parts, max_units=max_units, max_tokens=max_tokens)
    seen = [segment.examples.tolist() for batch in batches for segment in batch.segments]
    assert sorted(i for ids in seen for i in ids) == list(range(len(examples)))
    for batch, ids in zip(batches, seen, strict=True):
        whole = [unit for unit in range(len(units)) if set(examples.of_units(np.array([unit])).tolist()) <= set(ids)]
        assert sum(units[unit][0] for unit in whole) == len(ids), "no unit is divided"
        assert len(whole) <= max_units
        if max_tokens and len(whole) > 1:
            assert batch.inputs["input_ids"].numel() <= max_tokens
