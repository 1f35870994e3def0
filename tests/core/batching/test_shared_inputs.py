"""Tasks over the same texts: who belongs together, what a step gives them, and what is put into a batch once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hft_core.batching.batch import Batch
from hft_core.batching.collate import Collator, slices_of_process
from hft_core.batching.mixture import Mixture
from hft_core.batching.plan import Plan, TaskSlice
from hft_core.batching.shared_inputs import tasks_with_shared_inputs
from hft_core.data.examples import Examples
from hft_core.head import Column, Draw, Encoded, Head, Targets
from hft_core.recipe.stage import Sampling


class Numbers(Head):
    """Targets are the example numbers."""

    main_metric = "loss"

    def columns(self) -> Sequence[Column]:
        return []

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: Any, max_length: int) -> Encoded:
        raise AssertionError("batches are made of rows that are encoded")

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        return sequences, Targets(len(examples), {"example": torch.tensor(examples)})

    def attach(self, backbone: Any) -> None:
        raise AssertionError("no model is made here")

    def loss(self, features: Any, targets: Targets) -> Any:
        raise AssertionError("nothing is learned here")


class Masked(Numbers):
    """Shows the trunk other sequences."""

    changes_sequences = True

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        return [[0] * len(sequence) for sequence in sequences], Targets(len(examples), {})


class Undeclared(Masked):
    """Does so without saying it."""

    changes_sequences = False


def table(
    sequences: Sequence[Sequence[int]], first: Sequence[bool] | None = None, **extra: list[list[int]]
) -> pa.Table:
    columns: dict[str, Any] = {
        "_sequence": pa.array(sequences, pa.list_(pa.int32())),
        "_row": pa.array(range(len(sequences)), pa.int32()),
        "_length": pa.array([len(sequence) for sequence in sequences], pa.int32()),
        "_first": [True] * len(sequences) if first is None else list(first),
        "target.label": [next(LABELS) for _ in sequences],  # never part of the inputs
    }
    return pa.table(columns | {f"extra.{name}": values for name, values in extra.items()})


LABELS = count()
TEXTS = [[1, 2, 3], [4, 5], [6], [7, 8, 9, 10]]


def found(examples: Mapping[str, Examples], **heads: Head) -> dict[str, str]:
    return tasks_with_shared_inputs(examples, {task: heads.get(task, Numbers(task)) for task in examples})


def test_tasks_with_equal_texts_in_the_same_order_are_a_family() -> None:
    given_ = {name: Examples([table(TEXTS)]) for name in ("a", "b", "c")}
    assert found(given_) == {"a": "a", "b": "a", "c": "a"}


def test_how_the_tables_are_divided_does_not_matter() -> None:
    parts = [table(TEXTS[:1]), table(TEXTS[1:])]
    chunked = pa.concat_tables([table(TEXTS[:3]), table(TEXTS[3:])])
    examples = {"a": Examples([table(TEXTS)]), "b": Examples(parts), "c": Examples([chunked])}
    assert set(found(examples).values()) == {"a"}


def test_some_units_of_a_table_are_a_family_of_those_that_are_equal() -> None:
    whole = Examples([table([*TEXTS, [5, 5]])])
    assert found({"a": Examples([table(TEXTS)]), "b": whole.of(np.arange(4))}) == {"a": "a", "b": "a"}
    assert found({"a": Examples([table(TEXTS)]), "b": whole.of(np.array([0, 1, 3, 2]))})["b"] == "b"


@pytest.mark.parametrize(
    "other",
    [
        table([[1, 2, 3], [4, 5], [6], [7, 8, 9, 11]]),  # another token
        table([[4, 5], [1, 2, 3], [6], [7, 8, 9, 10]]),  # another order
        table([[1, 2], [3, 4, 5], [6], [7, 8, 9, 10]]),  # divided otherwise
        table([*TEXTS, [5]]),  # one more row
        table(TEXTS, first=[True, False, True, True]),  # other units
        table(TEXTS, token_type_ids=[[0] * len(text) for text in TEXTS]),  # a further input
    ],
)
def test_anything_else_in_the_inputs_makes_another_family(other: pa.Table) -> None:
    assert found({"a": Examples([table(TEXTS)]), "b": Examples([other])}) == {"a": "a", "b": "b"}


def test_a_head_that_shows_other_sequences_has_no_family() -> None:
    examples = {name: Examples([table(TEXTS)]) for name in ("a", "b", "c")}
    assert found(examples, a=Masked("a")) == {"a": "a", "b": "b", "c": "b"}


# --- the plan


def plan_of(
    counts: Mapping[str, int], related: Mapping[str, str], *, batch: int, total: int, sampling: Sampling | None = None
) -> Plan:
    random = np.random.default_rng(0)
    lengths = {task: random.integers(4, 200, size=count) for task, count in counts.items()}
    lengths = {task: lengths[related.get(task, task)] for task in counts}
    mixture = Mixture(counts, sampling or Sampling())
    return Plan(lengths, mixture, batch=batch, total=total, seed=0, stage=0, same_inputs_as=related)


def units(plan: Plan, task: str, steps: range | None = None) -> list[list[int]]:
    steps = steps or range(plan.steps)
    return [[int(i) for part in plan.step(step) if part.task == task for i in part.units] for step in steps]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(5, 80),
    tasks=st.integers(2, 5),
    other=st.integers(0, 60),
    batch=st.integers(10, 40),
    epochs=st.integers(1, 3),
)
def test_a_family_has_the_same_units_in_each_step_and_sees_each_once_a_pass(
    rows: int, tasks: int, other: int, batch: int, epochs: int
) -> None:
    counts = {f"t{i}": rows for i in range(tasks)} | ({"other": other} if other else {})
    related = {task: "t0" for task in counts if task != "other"}
    plan = plan_of(counts, related, batch=batch, total=epochs * sum(counts.values()))
    members = [units(plan, task) for task in counts if task != "other"]
    share = batch * rows / sum(counts.values())
    if share < 1:
        return
    assert all(one == members[0] for one in members)
    seen = [unit for step in members[0] for unit in step]
    assert abs(len(seen) - epochs * rows) <= 1, "within one text of its share"
    for start in range(0, len(seen), rows):
        assert len(set(seen[start : start + rows])) == len(seen[start : start + rows])
    taken = np.cumsum([len(step) for step in members[0]])[:-1]
    ahead = taken - share * np.arange(1, len(taken) + 1)
    assert ahead.min(initial=0) > -1e-5 and ahead.max(initial=0) < 1
    assert all(plan.step(step) for step in range(plan.steps)), "no step is empty"


def test_a_family_alone_takes_whole_epochs() -> None:
    plan = plan_of({"a": 100, "b": 100, "c": 100}, {"a": "a", "b": "a", "c": "a"}, batch=32, total=600)
    seen = [unit for step in units(plan, "b") for unit in step]
    assert sorted(seen[:100]) == sorted(seen[100:]) == list(range(100))
    assert {sum(len(part.units) for part in plan.step(step)) for step in range(plan.steps - 1)} == {30, 33}


def test_tasks_outside_a_family_have_the_plan_that_they_have_without_one() -> None:
    counts = {"a": 50, "b": 50, "c": 37, "d": 11}
    with_family = plan_of(counts, {"a": "a", "b": "a"}, batch=16, total=600)
    without = plan_of(counts, {}, batch=16, total=600)
    steps = range(min(with_family.steps, without.steps))
    for task in ("c", "d"):
        assert units(with_family, task, steps) == units(without, task, steps)


def test_the_first_task_of_a_family_keeps_its_order_when_others_join_it() -> None:
    alone = plan_of({"a": 60}, {}, batch=10, total=120)
    joined = plan_of({"a": 60, "b": 60}, {"a": "a", "b": "a"}, batch=20, total=240)
    assert units(alone, "a") == units(joined, "a") == units(joined, "b")


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(passes={"b": 2.0}),
        Sampling(weights={"b": 2.0}),
        Sampling(max_epochs={"b": 1.0}),
        Sampling(round_robin=True),
        Sampling(batch_size={"a": 4, "b": 8}),
    ],
)
def test_tasks_with_other_shares_walk_alone(sampling: Sampling) -> None:
    counts, related = {"a": 40, "b": 40}, {"a": "a", "b": "a"}
    ours = plan_of(counts, related, batch=12, total=240, sampling=sampling)
    plain = Plan(ours._lengths, Mixture(counts, sampling), batch=12, total=240, seed=0, stage=0)
    for task in counts:
        assert units(ours, task) == units(plain, task)
    assert {part.aligned_with for step in range(ours.steps) for part in ours.step(step)} == {"a", "b"}


def test_fixed_numbers_of_rows_are_shared_where_they_are_equal() -> None:
    plan = plan_of(
        {"a": 40, "b": 40}, {"a": "a", "b": "a"}, batch=16, total=160, sampling=Sampling(batch_size={"a": 8, "b": 8})
    )
    assert units(plan, "a") == units(plan, "b")


def test_fewer_rows_a_step_than_tasks_are_divided_as_without_families() -> None:
    counts = {f"t{i}": 12 for i in range(6)}
    plan = plan_of(counts, dict.fromkeys(counts, "t0"), batch=4, total=144)
    assert [sum(len(part.units) for part in plan.step(step)) for step in range(plan.steps)] == [4] * 36


def test_a_change_of_all_shares_alike_keeps_a_family_together_and_others_part_it() -> None:
    counts = {"a": 90, "b": 90, "c": 90}
    plan = plan_of(counts, dict.fromkeys(counts, "a"), batch=12, total=540)
    before = {task: units(plan, task, range(5)) for task in counts}
    plan.change(5, {"a": 1.0, "b": 1.0, "c": 0.5})
    assert before["a"] == before["c"] == units(plan, "c", range(5))
    after = range(5, plan.steps)
    assert units(plan, "a", after) == units(plan, "b", after) != units(plan, "c", after)
    for task in counts:
        seen = [unit for step in units(plan, task) for unit in step]
        assert sorted(seen[:90]) == list(range(90)), "no unit is lost or seen twice in the pass"


# --- batches


def batches(parts: Sequence[TaskSlice], heads: Mapping[str, Head], **settings_: Any) -> list[Batch]:
    sequences = [[100 * i + 7] * (3 + i % 4) for i in range(12)]
    examples = {task: Examples([table(sequences)]) for task in heads}
    dedupe = settings_.pop("dedupe_inputs", True)
    collator = Collator(examples, heads, seed=0, pad=99, dedupe_inputs=dedupe)
    return collator.step_batches(parts, **{"max_units": 100, "max_tokens": None, **settings_})


def side_by_side(*tasks: str, epochs: Sequence[int] = (0,)) -> list[TaskSlice]:
    sets = [np.array([5, 2, 9]), np.array([1, 5])]
    return [TaskSlice(task, epoch, sets[epoch], tasks[0]) for task in tasks for epoch in epochs]


def heads_of(*tasks: str) -> dict[str, Head]:
    return {task: Numbers(task) for task in tasks}


def test_a_text_of_several_tasks_is_in_a_batch_once() -> None:
    (batch,) = batches(side_by_side("a", "b", "c"), heads_of("a", "b", "c"))
    assert batch.rows == 3
    assert batch.examples == 9
    assert batch.tokens == int(batch.inputs["attention_mask"].sum())
    for segment in batch.segments:
        assert (batch.inputs["input_ids"][segment.rows, 0] // 100).tolist() == segment.examples.tolist()
        assert segment.targets.tensors["example"].tolist() == segment.examples.tolist()


def test_units_of_two_passes_are_two_rows() -> None:
    (batch,) = batches(side_by_side("a", "b", epochs=(0, 1)), heads_of("a", "b"))
    assert batch.rows == 5
    assert {(s.task, s.rows.start, s.rows.stop) for s in batch.segments} == {
        (task, *rows) for task in "ab" for rows in ((0, 3), (3, 5))
    }


def test_limits_count_a_shared_row_once() -> None:
    made = batches(side_by_side("a", "b", "c"), heads_of("a", "b", "c"), max_units=3)
    assert [batch.rows for batch in made] == [3]
    made = batches(side_by_side("a", "b", "c"), heads_of("a", "b", "c"), max_units=2)
    assert sorted(batch.rows for batch in made) == [1, 2]
    assert all(len(batch.segments) == 3 for batch in made)


@pytest.mark.parametrize("settings_", [{"dedupe_inputs": False}, {"one_task_per_batch": True}])
def test_rows_are_put_in_for_each_task_where_they_must_not_be_shared(settings_: dict[str, bool]) -> None:
    made = batches(side_by_side("a", "b"), heads_of("a", "b"), **settings_)
    assert sum(batch.rows for batch in made) == 6
    for batch in made:
        ends = [segment.rows.stop for segment in batch.segments]
        assert [segment.rows.start for segment in batch.segments] == [0, *ends[:-1]]


def test_a_head_that_shows_other_sequences_without_saying_so_has_rows_of_its_own() -> None:
    heads = {"a": Numbers("a"), "b": Undeclared("b"), "c": Numbers("c")}
    (batch,) = batches(side_by_side("a", "b", "c"), heads)
    assert batch.rows == 6
    rows = {segment.task: batch.inputs["input_ids"][segment.rows] for segment in batch.segments}
    assert torch.equal(rows["a"], rows["c"])
    assert not rows["b"][batch.inputs["attention_mask"][:3] == 1].any()


@settings(max_examples=40, deadline=None)
@given(world=st.integers(2, 5), family=st.integers(1, 9), alone=st.integers(0, 9))
def test_processes_divide_a_step_so_that_one_has_the_same_texts_of_all_tasks(
    world: int, family: int, alone: int
) -> None:
    parts = [TaskSlice("a", 0, np.arange(family), "a")]
    parts += [TaskSlice("other", 0, np.arange(alone), "other")] if alone else []
    parts += [TaskSlice("b", 0, np.arange(family), "a")]
    dealt = [slices_of_process(parts, rank, world) for rank in range(world)]
    for mine in dealt:
        of = {part.task: part.units.tolist() for part in mine}
        assert of.get("a") == of.get("b")
    for task, size in (("a", family), ("b", family), ("other", alone)):
        every = sorted(int(i) for mine in dealt for part in mine if part.task == task for i in part.units)
        assert every == list(range(size))
    rows = [sum(len(part.units) for part in mine if part.task != "b") for mine in dealt]
    assert max(rows) - min(rows) <= 1


def test_evaluation_encodes_the_texts_of_a_family_once_and_mixes_tasks() -> None:
    texts, others = [[1] * n for n in (5, 2, 9, 3)], [[2] * n for n in (4, 8)]
    examples = {"a": Examples([table(texts)]), "o": Examples([table(others)]), "b": Examples([table(texts)])}
    for dedupe, rows in ((True, 6), (False, 10)):
        collator = Collator(examples, heads_of(*examples), seed=0, pad=0, dedupe_inputs=dedupe)
        made = list(collator.in_length_order(max_rows=3, max_tokens=10**6))
        assert sum(batch.rows for batch in made) == rows
        assert [batch.rows for batch in made[:-1]] == [3] * (len(made) - 1)
        seen = [(s.task, int(i)) for batch in made for s in batch.segments for i in s.examples]
        assert sorted(seen) == sorted((task, i) for task, part in examples.items() for i in range(len(part)))


# --- rows of one text that are put in for each task


def texts_of(batch: Batch) -> int:
    """The texts of a batch in which some rows are one text; each of its rows is the one that stands for its text."""
    assert batch.unique_rows is not None
    ids = batch.inputs["input_ids"]
    assert torch.equal(ids[batch.unique_rows.first][batch.unique_rows.of_row], ids)
    return len(batch.unique_rows.first)


def test_a_batch_knows_the_rows_of_one_text() -> None:
    (batch,) = batches(side_by_side("a", "b", "c"), heads_of("a", "b", "c"), dedupe_inputs=False)
    assert (batch.rows, texts_of(batch)) == (9, 3)


def test_rows_of_one_text_stay_together_where_a_step_is_divided() -> None:
    made = batches(side_by_side("a", "b", "c"), heads_of("a", "b", "c"), dedupe_inputs=False, max_units=3)
    assert [(batch.rows, texts_of(batch)) for batch in made] == [(3, 1)] * 3


def test_units_of_two_passes_and_of_two_walks_are_texts_of_their_own() -> None:
    parts = side_by_side("a", "b", epochs=(0, 1))
    parts.insert(1, TaskSlice("o", 0, np.array([5, 2]), "o"))
    (batch,) = batches(parts, heads_of("a", "b", "o"), dedupe_inputs=False)
    assert (batch.rows, texts_of(batch)) == (12, 3 + 2 + 2)


def test_rows_that_a_head_changed_are_texts_of_their_own() -> None:
    heads = {"a": Numbers("a"), "b": Undeclared("b"), "c": Numbers("c")}
    (batch,) = batches(side_by_side("a", "b", "c"), heads, dedupe_inputs=False)
    assert (batch.rows, texts_of(batch)) == (9, 6)


@pytest.mark.parametrize("settings_", [{"dedupe_inputs": True}, {"dedupe_inputs": False, "one_task_per_batch": True}])
def test_no_rows_are_one_text_where_each_is_put_in_once_or_a_batch_holds_one_task(settings_: dict[str, bool]) -> None:
    made = batches(side_by_side("a", "b"), heads_of("a", "b"), **settings_)
    assert [batch.unique_rows for batch in made] == [None] * len(made)


def test_evaluation_puts_rows_of_one_text_side_by_side() -> None:
    texts = [[i + 1] * (3 + i % 4) for i in range(12)]
    examples = {"a": Examples([table(texts)]), "o": Examples([table([[99] * 4])]), "b": Examples([table(texts)])}
    collator = Collator(examples, heads_of(*examples), seed=0, pad=0, dedupe_inputs=False)
    made = list(collator.in_length_order(max_rows=7, max_tokens=10**6))
    assert sum(batch.rows for batch in made) == 25
    computed = sum(texts_of(batch) if batch.unique_rows is not None else batch.rows for batch in made)
    assert 13 <= computed < 13 + len(made), "between two batches one text at most is in both"
