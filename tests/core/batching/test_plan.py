from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hft_core.batching.epoch_order import SIMILAR_LENGTH_STEPS
from hft_core.batching.mixture import Mixture
from hft_core.batching.plan import Plan
from hft_core.recipe.stage import Sampling


def lengths_of(counts: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {task: random.integers(4, 200, size=count) for task, count in counts.items()}


def plan_for(
    counts: dict[str, int], sampling: Sampling | None = None, *, batch: int, total: int, seed: int = 0, stage: int = 0
) -> Plan:
    mixture = Mixture(counts, sampling or Sampling())
    return Plan(lengths_of(counts), mixture, batch=batch, total=total, seed=seed, stage=stage)


def shares(counts: dict[str, int], sampling: Sampling) -> dict[str, float]:
    (share,) = Mixture(counts, sampling).proportions(np.zeros(1), np.ones(len(counts)))
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
        "from hft_core.batching.mixture import Mixture\n"
        "from hft_core.batching.plan import Plan\n"
        "from hft_core.recipe.stage import Sampling\n"
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
    counts = {"a": 32 * SIMILAR_LENGTH_STEPS}
    lengths = lengths_of(counts)
    plan = Plan(lengths, Mixture({"a": 1600}, Sampling()), batch=32, total=counts["a"], seed=0, stage=0)
    ours = sum(32 * int(lengths["a"][step].max()) for step in rows_by_step(plan, "a"))
    shuffled = np.random.default_rng(5).permutation(lengths["a"]).reshape(-1, 32)
    by_chance = 32 * int(shuffled.max(axis=1).sum())
    real = int(lengths["a"].sum())
    assert ours - real < (by_chance - real) / 10


def test_a_step_that_is_short_for_one_task_is_short_for_all() -> None:
    """So that their rows fit into one pass; with other shares and passes that begin elsewhere it is nearly so."""
    lengths = lengths_of({"a": 1200, "b": 1200, "c": 500})
    sampling = Sampling(weights={"a": 1.0, "b": 1.0, "c": 2.0})
    plan = Plan(lengths, Mixture({"a": 1200, "b": 1200, "c": 500}, sampling), batch=32, total=4000, seed=0, stage=0)
    steps = [
        {part.task: float(np.mean(lengths[part.task][part.units])) for part in plan.step(index)}
        for index in range(plan.steps)
    ]
    means = np.array([[step[task] for task in "abc"] for step in steps])
    together = np.corrcoef(means.T)
    assert together[0, 1] > 0.95
    assert together[0, 2] > 0.85


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


# --- like lengths and still a shuffle: order statistics over seeds, with lengths that tell the label


SHUFFLED_ROWS, SHUFFLED_BATCH = 960, 8
SEEDS = 60


def _orders() -> np.ndarray:
    """`[seeds, rows]`: in which step each row comes; rows are ordered by length, and the longer half has one label."""
    count = SHUFFLED_ROWS
    lengths = {"a": np.sort(np.random.default_rng(0).integers(4, 200, size=count))}
    steps_of = np.empty((SEEDS, count), np.int64)
    for seed in range(SEEDS):
        mixture = Mixture({"a": count}, Sampling())
        plan = Plan(lengths, mixture, batch=SHUFFLED_BATCH, total=count, seed=seed, stage=0)
        steps = count // SHUFFLED_BATCH
        for step in range(steps):
            (part,) = plan.step(step)
            steps_of[seed, part.units] = step
    return steps_of


@pytest.fixture(scope="module")
def steps_of_rows() -> np.ndarray:
    return _orders()


def test_each_row_comes_at_any_time_with_equal_chance(steps_of_rows: np.ndarray) -> None:
    """Chi-square of the tenth of the pass in which each row comes, against the uniform distribution."""
    tenths = steps_of_rows * 10 // (SHUFFLED_ROWS // SHUFFLED_BATCH)
    counts = np.stack([(tenths == tenth).sum(axis=0) for tenth in range(10)])
    expected = SEEDS / 10
    chi_square = ((counts - expected) ** 2 / expected).sum(axis=0)
    # 9 degrees of freedom: mean 9, variance 18. The rows of one batch come together, so that the mean over all rows is
    # as certain as that of one row of each batch.
    assert chi_square.mean() == pytest.approx(9.0, abs=3 * math.sqrt(18 / (SHUFFLED_ROWS / SHUFFLED_BATCH)))
    assert (chi_square > 27.9).mean() < 0.005, "beyond the 99.9 % quantile"
    by_length = steps_of_rows.mean(axis=0)
    middle, error = (SHUFFLED_ROWS // SHUFFLED_BATCH - 1) / 2, 34.6 / math.sqrt(SEEDS)
    assert np.abs(by_length - middle).max() < 4.5 * error


def test_labels_that_lengths_tell_do_not_come_in_a_certain_order(steps_of_rows: np.ndarray) -> None:
    label = np.arange(SHUFFLED_ROWS) >= SHUFFLED_ROWS // 2
    correlations = np.array([np.corrcoef(label, steps)[0, 1] for steps in steps_of_rows])
    assert abs(correlations.mean()) < 3 * correlations.std() / math.sqrt(SEEDS)
    # A batch is of one length and so of one label: the noise is that of whole batches, not of rows.
    assert np.abs(correlations).max() < 2 / math.sqrt(SHUFFLED_ROWS // SHUFFLED_BATCH)


def test_every_stretch_of_a_pass_has_about_its_share_of_each_label(steps_of_rows: np.ndarray) -> None:
    """A window of steps has the rows of a random draw; batches of one label within it even out over its steps."""
    label = np.arange(SHUFFLED_ROWS) >= SHUFFLED_ROWS // 2
    window = steps_of_rows // SIMILAR_LENGTH_STEPS
    size = SIMILAR_LENGTH_STEPS * SHUFFLED_BATCH
    shares = np.array([label[of_seed == 0].mean() for of_seed in window])
    spread = 0.5 * math.sqrt((1 - size / SHUFFLED_ROWS) / size)
    assert abs(shares.mean() - 0.5) < 4 * spread / math.sqrt(SEEDS)
    assert shares.std() == pytest.approx(spread, rel=0.35)


def _meeting_again(windows: int) -> float:
    """Of the pairs of rows in a batch, the share that is in one batch in the next pass too."""
    batch, count = 4, 4 * SIMILAR_LENGTH_STEPS * windows
    met = repeated = 0
    for seed in range(8):
        mixture = Mixture({"a": count}, Sampling())
        plan = Plan({"a": np.arange(count)}, mixture, batch=batch, total=2 * count, seed=seed, stage=0)
        steps = count // batch
        step_of = np.empty(count, np.int64)
        for step in range(steps, 2 * steps):
            step_of[plan.step(step)[0].units] = step
        for step in range(steps):
            members = step_of[plan.step(step)[0].units]
            met += batch * (batch - 1) // 2
            repeated += sum(int((members[i + 1 :] == members[i]).sum()) for i in range(batch))
    return repeated / met


def test_rows_have_other_neighbours_in_each_pass() -> None:
    """Two rows of like length meet again only where they are in one window again, with a chance of 1 / windows, and in
    one batch of it; in a data set of many windows they hardly ever do."""
    rates = {windows: _meeting_again(windows) for windows in (2, 8, 32)}
    for windows, rate in rates.items():
        assert 0.2 / windows < rate < 0.8 / windows, rates


def test_the_order_of_lengths_is_that_of_a_shuffle(steps_of_rows: np.ndarray) -> None:
    """The lengths of consecutive steps do not go up or down together (autocorrelation at lag 1 near 0)."""
    found = []
    for steps in steps_of_rows:
        means = np.array([np.flatnonzero(steps == step).mean() for step in range(SIMILAR_LENGTH_STEPS)])
        found.append(np.corrcoef(means[:-1], means[1:])[0, 1])
    assert abs(float(np.mean(found)) + 1 / SIMILAR_LENGTH_STEPS) < 3 / math.sqrt(SEEDS * SIMILAR_LENGTH_STEPS)


def test_a_stream_is_taken_in_its_own_order_and_leaves_that_of_other_tasks_as_it_is() -> None:
    """Also behind a change of the proportions: no number is left out or comes twice."""

    def made() -> Plan:
        lengths = {"lm": np.empty(0, np.int32), **lengths_of({"a": 90})}
        mixture = Mixture({"lm": 1, "a": 90}, Sampling(temperature=math.inf))
        return Plan(lengths, mixture, batch=8, total=320, seed=0, stage=0)

    plan = made()
    assert [i for step in rows_by_step(plan, "lm") for i in step] == list(range(160))
    assert plan.taken("lm", 40) == 160
    assert plan.passes("lm") == 0
    changed = made()
    changed.change(20, {"lm": 0.5, "a": 1.0})
    taken = [i for step in rows_by_step(changed, "lm") for i in step]
    assert taken == list(range(len(taken)))
    assert as_lists(changed, range(20)) == as_lists(plan, range(20))
    assert len(taken) == changed.taken("lm", 40) < 160
