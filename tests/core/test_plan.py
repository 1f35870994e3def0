from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hft_core.mixture import Mixture
from hft_core.plan import LIKE_LENGTH_STEPS, Plan
from hft_core.recipe_stage import Sampling


def lengths_of(counts: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {task: random.integers(4, 200, size=count) for task, count in counts.items()}


def plan_for(
    counts: dict[str, int], sampling: Sampling | None = None, *, batch: int, total: int, seed: int = 0, stage: int = 0
) -> Plan:
    mixture = Mixture(counts, sampling or Sampling())
    return Plan(lengths_of(counts), mixture, batch=batch, total=total, seed=seed, stage=stage)


def shares(counts: dict[str, int], sampling: Sampling) -> dict[str, float]:
    (share,) = Mixture(counts, sampling).shares(np.zeros(1), np.ones(len(counts)))
    return dict(zip(counts, share.tolist(), strict=True))


def as_lists(plan: Plan, steps: range | list[int]) -> list[list[tuple[str, int, list[int]]]]:
    return [[(part.task, part.epoch, part.units.tolist()) for part in plan.step(step)] for step in steps]


def rows_by_step(plan: Plan, task: str) -> list[list[int]]:
    return [[int(i) for part in plan.step(step) if part.task == task for i in part.units] for step in range(plan.steps)]


COUNTS = {"a": 90, "b": 31, "c": 7}


def test_steps_asked_for_in_any_order_are_those_asked_for_one_after_another() -> None:
    straight = as_lists(plan_for(COUNTS, batch=8, total=500), range(63))
    order = np.random.default_rng(3).permutation(63).tolist()
    jumping = as_lists(plan_for(COUNTS, batch=8, total=500), order)
    assert [straight[step] for step in order] == jumping


def test_another_process_makes_the_same_plan() -> None:
    code = (
        "import numpy as np\n"
        "from hft_core.mixture import Mixture\n"
        "from hft_core.plan import Plan\n"
        "from hft_core.recipe_stage import Sampling\n"
        f"counts = {COUNTS}\n"
        "random = np.random.default_rng(0)\n"
        "lengths = {task: random.integers(4, 200, size=count) for task, count in counts.items()}\n"
        "plan = Plan(lengths, Mixture(counts, Sampling()), batch=8, total=500, seed=0, stage=0)\n"
        "print([[(p.task, p.epoch, p.units.tolist()) for p in plan.step(s)] for s in range(plan.steps)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(as_lists(plan_for(COUNTS, batch=8, total=500), range(63)))


def test_seed_and_stage_each_change_the_order() -> None:
    first = as_lists(plan_for(COUNTS, batch=8, total=500), range(63))
    assert as_lists(plan_for(COUNTS, batch=8, total=500, seed=1), range(63)) != first
    assert as_lists(plan_for(COUNTS, batch=8, total=500, stage=1), range(63)) != first


def test_one_task_sees_each_row_once_an_epoch() -> None:
    plan = plan_for({"a": 53}, batch=8, total=3 * 53)
    seen = [row for step in rows_by_step(plan, "a") for row in step]
    assert len(seen) == 3 * 53
    for epoch in range(3):
        assert sorted(seen[53 * epoch : 53 * (epoch + 1)]) == list(range(53))
    assert seen[:53] != seen[53:106]


def test_parts_of_a_step_that_crosses_an_epoch_name_their_epochs() -> None:
    plan = plan_for({"a": 10}, batch=8, total=20)
    assert [[(part.epoch, len(part.units)) for part in plan.step(step)] for step in range(3)] == [
        [(0, 8)],
        [(0, 2), (1, 6)],
        [(1, 4)],
    ]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0), Sampling(temperature=math.inf)])
def test_every_step_but_the_last_has_exactly_the_batch_size(sampling: Sampling) -> None:
    plan = plan_for(COUNTS, sampling, batch=8, total=500)
    sizes = [sum(len(part.units) for part in plan.step(step)) for step in range(plan.steps)]
    assert sizes == [8] * 62 + [4]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=2.0),
        Sampling(temperature=math.inf),
        Sampling(weights={"c": 5.0}),
        Sampling(temperature=3.0, weights={"a": 0.25}),
    ],
)
def test_shares_are_exact_over_time(sampling: Sampling) -> None:
    plan = plan_for(COUNTS, sampling, batch=8, total=8 * 400)
    share = shares(COUNTS, sampling)
    for task in COUNTS:
        taken = np.cumsum([len(step) for step in rows_by_step(plan, task)])
        wanted = share[task] * 8 * np.arange(1, 401)
        assert np.abs(taken - wanted).max() < 3, task
        assert abs(taken[-1] - wanted[-1]) <= 2, task


def test_shares_follow_rows_temperature_and_weights() -> None:
    rows = {"a": 900, "b": 100}
    assert shares(rows, Sampling()) == pytest.approx({"a": 0.9, "b": 0.1})
    assert shares(rows, Sampling(temperature=2.0)) == pytest.approx({"a": 0.75, "b": 0.25})
    assert shares(rows, Sampling(temperature=math.inf)) == pytest.approx({"a": 0.5, "b": 0.5})
    assert shares(rows, Sampling(weights={"b": 9.0})) == pytest.approx({"a": 0.5, "b": 0.5})


def test_rows_of_one_step_are_of_like_length() -> None:
    counts = {"a": 32 * LIKE_LENGTH_STEPS}
    lengths = lengths_of(counts)
    plan = Plan(lengths, Mixture({"a": 1600}, Sampling()), batch=32, total=counts["a"], seed=0, stage=0)
    ours = sum(32 * int(lengths["a"][step].max()) for step in rows_by_step(plan, "a"))
    shuffled = np.random.default_rng(5).permutation(lengths["a"]).reshape(-1, 32)
    by_chance = 32 * int(shuffled.max(axis=1).sum())
    real = int(lengths["a"].sum())
    assert ours - real < (by_chance - real) / 10


def test_lengths_do_not_decide_when_a_row_comes() -> None:
    lengths = {"a": np.arange(1, 1601)}
    plan = Plan(lengths, Mixture({"a": 1600}, Sampling()), batch=32, total=1600, seed=0, stage=0)
    means = [float(np.mean(lengths["a"][step])) for step in rows_by_step(plan, "a")]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    temperature=st.floats(1, 50),
    batch=st.integers(1, 20),
    total=st.integers(1, 400),
    seed=st.integers(0, 5),
)
def test_each_pass_of_each_task_is_a_permutation_of_its_rows(
    counts: list[int], temperature: float, batch: int, total: int, seed: int
) -> None:
    tasks = {f"t{i}": count for i, count in enumerate(counts)}
    plan = plan_for(tasks, Sampling(temperature=temperature), batch=batch, total=total, seed=seed)
    sizes = [sum(len(part.units) for part in plan.step(step)) for step in range(plan.steps)]
    assert sum(sizes) == total
    assert sizes[:-1] == [batch] * (plan.steps - 1)
    for task, count in tasks.items():
        seen = [row for step in rows_by_step(plan, task) for row in step]
        for start in range(0, len(seen), count):
            whole = seen[start : start + count]
            assert len(set(whole)) == len(whole)
            assert len(whole) < count or sorted(whole) == list(range(count))
