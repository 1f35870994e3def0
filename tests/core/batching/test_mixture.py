from __future__ import annotations

import math

import numpy as np
import pytest

from hft_core.batching.mixture import AdaptiveMixture, Mixture, epoch_rows
from hft_core.batching.plan import Plan
from hft_core.recipe.schema import Recipe
from hft_core.recipe.stage import Sampling

ROWS = {"a": 900, "b": 300, "c": 100}


def plan_of(
    sampling: Sampling, rows: dict[str, int] | None = None, *, batch: int = 16, epochs: float = 3, **replay: float
) -> Plan:
    rows = rows or ROWS
    random = np.random.default_rng(0)
    lengths = {task: random.integers(4, 60, size=count) for task, count in rows.items()}
    total = round(epochs * epoch_rows(rows, sampling, replay))
    batch = sum(sampling.batch_size.values()) or batch
    return Plan(lengths, Mixture(rows, sampling, replay), batch=batch, total=total, seed=0, stage=0)


def counts(plan: Plan, start: int = 0, stop: int | None = None) -> dict[str, int]:
    """Units of each task in some steps."""
    found = dict.fromkeys(plan.tasks, 0)
    for step in range(start, plan.steps if stop is None else stop):
        for part in plan.step(step):
            found[part.task] += len(part.units)
    return found


def units(plan: Plan, task: str, stop: int | None = None) -> list[int]:
    steps = range(plan.steps if stop is None else stop)
    return [int(unit) for step in steps for part in plan.step(step) if part.task == task for unit in part.units]


def test_an_annealed_temperature_goes_from_one_division_to_the_other() -> None:
    plan = plan_of(Sampling(temperature=1.0, temperature_end=math.inf), batch=26, epochs=10)
    first, last = counts(plan, 0, 50), counts(plan, plan.steps - 50)
    assert first["a"] / 1300 == pytest.approx(900 / 1300, abs=0.03)
    assert last["a"] / sum(last.values()) == pytest.approx(1 / 3, abs=0.03)
    middle = counts(plan, plan.steps // 2 - 25, plan.steps // 2 + 25)
    wanted = np.sqrt([900, 300, 100])
    assert middle["a"] / 1300 == pytest.approx(wanted[0] / wanted.sum(), abs=0.03)


def test_passes_see_a_task_more_or_less_than_once_in_an_epoch() -> None:
    plan = plan_of(Sampling(passes={"b": 2.0, "a": 0.5}), batch=10, epochs=1)
    assert sum(counts(plan).values()) == 450 + 600 + 100
    assert counts(plan) == pytest.approx({"a": 450, "b": 600, "c": 100}, abs=2)
    assert len(set(units(plan, "a"))) == pytest.approx(450, abs=2), "half of a pass has no row twice"


def test_a_batch_size_by_task_holds_in_every_step() -> None:
    plan = plan_of(Sampling(batch_size={"a": 8, "b": 4, "c": 1}))
    assert plan.batch == 13
    for step in range(plan.steps):
        assert {part.task: 0 for part in plan.step(step)}.keys() == {"a", "b", "c"}
        found: dict[str, int] = {}
        for part in plan.step(step):
            found[part.task] = found.get(part.task, 0) + len(part.units)
        assert found == {"a": 8, "b": 4, "c": 1}


def test_in_round_robin_each_step_belongs_to_one_task_and_the_tasks_take_turns() -> None:
    plan = plan_of(Sampling(round_robin=True))
    turns = [{part.task for part in plan.step(step)} for step in range(plan.steps)]
    assert turns[:6] == [{"a"}, {"b"}, {"c"}, {"a"}, {"b"}, {"c"}]
    assert all(len(tasks) == 1 for tasks in turns)
    plan.change(4, {"b": 0.0})
    assert [{part.task for part in plan.step(step)} for step in (4, 5, 6, 7)] == [{"a"}, {"c"}, {"a"}, {"c"}]


def test_a_task_whose_epochs_are_spent_gives_its_share_to_the_others() -> None:
    plan = plan_of(Sampling(temperature=math.inf, max_epochs={"c": 2.0}), epochs=2)
    found = counts(plan)
    assert 200 <= found["c"] < 200 + 16
    assert sum(found.values()) == 2600
    assert found["a"] == pytest.approx(found["b"], abs=2)
    last = max(step for step in range(plan.steps) if any(part.task == "c" for part in plan.step(step)))
    assert counts(plan, last + 1)["c"] == 0
    assert plan.steps - last > 50


def test_a_stage_ends_when_the_epochs_of_all_its_tasks_are_spent() -> None:
    plan = plan_of(Sampling(max_epochs={"a": 1, "b": 1, "c": 1}), epochs=5)
    found = counts(plan)
    assert all(ROWS[task] <= found[task] < ROWS[task] + 16 for task in ROWS)


def test_a_replayed_task_has_its_share_of_every_step_beside_an_epoch_of_the_others() -> None:
    plan = plan_of(Sampling(), {"a": 900, "language": 20_000}, batch=20, epochs=2, language=0.25)
    found = counts(plan)
    assert found["a"] == pytest.approx(1800, abs=2)
    assert found["language"] == pytest.approx(600, abs=2)
    assert all(counts(plan, step, step + 1)["language"] == 5 for step in range(10))


def test_a_replayed_task_keeps_its_share_when_another_stops_and_has_all_when_all_have() -> None:
    mixture = Mixture({"a": 10, "b": 30, "language": 500}, Sampling(), {"language": 0.2})
    for factors, wanted in (
        ([1, 1, 1], [0.2, 0.6, 0.2]),
        ([0, 1, 1], [0.0, 0.8, 0.2]),
        ([0, 0, 1], [0.0, 0.0, 1.0]),
        ([1, 1, 0], [0.25, 0.75, 0.0]),
    ):
        (shares,) = mixture.proportions(np.zeros(1), np.array(factors, float))
        assert shares.tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("step", [1, 7, 20, 63])
def test_a_change_leaves_what_was_done_and_every_pass_whole(step: int) -> None:
    before, plan = plan_of(Sampling(), epochs=4), plan_of(Sampling(), epochs=4)
    plan.change(step, {"a": 0.5, "b": 2.0})
    plan.change(step + 5, {"b": 0.25, "c": 3.0})
    for done in range(step):
        assert [(p.task, p.epoch, p.units.tolist()) for p in before.step(done)] == [
            (p.task, p.epoch, p.units.tolist()) for p in plan.step(done)
        ]
    for task, size in ROWS.items():
        seen = units(plan, task)
        for start in range(0, len(seen) - size + 1, size):
            assert sorted(seen[start : start + size]) == list(range(size)), f"a pass over {task}"
        rest = seen[len(seen) - len(seen) % size :]
        assert len(set(rest)) == len(rest)


def test_the_same_changes_make_the_same_plan_whenever_steps_are_looked_at() -> None:
    one, two = plan_of(Sampling()), plan_of(Sampling())
    for step in range(30):
        one.step(step)
    for plan in (one, two):
        plan.change(30, {"a": 0.0})
        plan.change(41, {"b": 2.0})
    for step in range(one.steps):
        assert [(p.task, p.epoch, p.units.tolist()) for p in one.step(step)] == [
            (p.task, p.epoch, p.units.tolist()) for p in two.step(step)
        ]


def test_a_change_divides_the_rows_that_follow_by_the_new_shares() -> None:
    plan = plan_of(Sampling(), epochs=20)
    plan.change(100, {"a": 0.0, "b": 1.0, "c": 3.0})
    later = counts(plan, 100, 300)
    assert later["a"] == 0
    assert later["b"] == pytest.approx(later["c"], abs=2)


# --- adapting to the dev scores


def test_nothing_follows_the_scores_unless_asked_for() -> None:
    assert AdaptiveMixture(Sampling(), ("a", "b")).factors({"a": 1.0}, {"a": 0.5}) is None


def test_the_task_whose_loss_has_fallen_least_gets_more() -> None:
    mixture = AdaptiveMixture(Sampling(adapt=1.0), ("a", "b", "c"))
    assert mixture.factors({"a": 2.0, "b": 4.0}, {}) == {"a": 1.0, "b": 1.0, "c": 1.0}
    found = mixture.factors({"a": 1.0, "b": 3.0}, {})
    assert found == pytest.approx({"a": 0.5 / 0.625, "b": 0.75 / 0.625, "c": 1.0})


def test_a_loss_that_rises_again_draws_no_rows() -> None:
    mixture = AdaptiveMixture(Sampling(adapt=1.0), ("a", "b"))
    mixture.factors({"a": 2.0, "b": 2.0}, {})
    low = mixture.factors({"a": 0.5, "b": 1.0}, {})
    assert mixture.factors({"a": 9.0, "b": 1.0}, {}) == low


def test_adaptive_factors_have_limits() -> None:
    mixture = AdaptiveMixture(Sampling(adapt=10.0), ("a", "b"))
    mixture.factors({"a": 1.0, "b": 1.0}, {})
    assert mixture.factors({"a": 1e-6, "b": 1.0}, {}) == {"a": 0.25, "b": 4.0}


def test_a_task_stops_after_its_patience_and_stays_stopped() -> None:
    mixture = AdaptiveMixture(Sampling(patience={"a": 2}), ("a", "b"))
    for score, wanted in ((0.5, 1.0), (0.6, 1.0), (0.6, 1.0), (0.55, 0.0)):
        factors = mixture.factors({}, {"a": score, "b": 0.1})
        assert factors == {"a": wanted, "b": 1.0}


# --- the recipe


def recipe(**changes: object) -> Recipe:
    tasks = {
        "topic": {"head": "classification", "data": "topic.csv"},
        "language": {"head": "mlm", "data": "a.txt", "replay": True},
    }
    stage = {"tasks": ["topic"], **changes}
    return Recipe.model_validate({"backbone": "x", "tasks": tasks, "stages": [stage]})


def test_a_replayed_task_joins_every_stage_that_is_about_something_else() -> None:
    (stage,) = recipe().stages
    assert stage.tasks == ("topic", "language")
    assert recipe().replay_in(stage) == {"language": 0.1}


def test_a_stage_of_the_replayed_task_alone_trains_it_as_any_other() -> None:
    both = recipe().model_dump(mode="json")
    both["stages"] = [{"name": "first", "tasks": ["language"]}, {"name": "then", "tasks": ["topic"]}]
    found = Recipe.model_validate(both)
    first, then = found.stages
    assert (first.tasks, found.replay_in(first)) == (("language",), {})
    assert (then.tasks, found.replay_in(then)) == (("topic", "language"), {"language": 0.1})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sampling": "robin"}, "'round-robin'"),
        ({"sampling": {"batch_size": {"topic": 4}}}, "'language' of the stage is missing"),
        ({"sampling": {"round_robin": True}}, "'replay' share"),
        (
            {"sampling": {"round_robin": True, "weights": {"topic": 2.0}}},
            "'weights' cannot be combined",
        ),
        ({"sampling": {"patience": {"topik": 2}}}, "Did you mean 'topic'"),
        ({"sampling": {"max_epochs": {"topik": 2}}}, "Did you mean 'topic'"),
        ({"sampling": "adaptive", "eval_strategy": "no"}, "needs evaluations"),
        ({"sampling": {"patience": {"topic": 2}}, "eval_strategy": "no"}, "needs evaluations"),
    ],
)
def test_a_sampling_that_does_not_fit_its_stage_is_told(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        recipe(**changes)
