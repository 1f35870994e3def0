from __future__ import annotations

import math
from typing import Any, cast

import pytest

from hft_core.errors import RecipeError
from hft_core.head import Head
from hft_core.recipe.stage import Stage
from hft_core.training.selection import Selection, made_worse


class Known:
    """What the rules look at in a head."""

    def __init__(self, main_metric: str, *, greater: bool = True, supervised: bool = True) -> None:
        self.main_metric, self.greater_is_better, self.supervised = main_metric, greater, supervised


HEADS = cast(
    "dict[str, Head]",
    {
        "topic": Known("accuracy"),
        "match": Known("accuracy"),
        "price": Known("mae", greater=False),
        "language": Known("perplexity", greater=False, supervised=False),
        "other": Known("perplexity", greater=False, supervised=False),
    },
)
SCORES = {
    "topic": {"accuracy": 0.8, "loss": 0.5, "f1_macro": 0.7},
    "match": {"accuracy": 0.6, "loss": 0.9},
    "language": {"perplexity": 9.0, "loss": 2.2},
    "other": {"perplexity": 20.0, "loss": 3.0},
}


def selection(tasks: tuple[str, ...], **stage: Any) -> Selection:
    return Selection(Stage(name="s", tasks=tasks, **stage), HEADS)


def picked(scores: dict[str, dict[str, float]], *tasks: str) -> dict[str, dict[str, float]]:
    return {task: scores[task] for task in tasks}


def test_the_rule_is_the_mean_of_the_supervised_tasks_main_metrics() -> None:
    assert selection(("topic", "match", "language"))(picked(SCORES, "topic", "match", "language")) == pytest.approx(0.7)


def test_a_main_metric_that_is_better_when_lower_counts_against() -> None:
    assert selection(("price",))({"price": {"mae": 3.0, "loss": 4.0}}) == -3.0


def test_without_supervised_tasks_the_rule_is_minus_the_mean_loss() -> None:
    assert selection(("language", "other"))(picked(SCORES, "language", "other")) == pytest.approx(-2.6)


def test_the_loss_that_decides_between_equal_scores_is_that_of_the_tasks_that_count() -> None:
    scores = picked(SCORES, "topic", "match", "language")
    assert selection(("topic", "match", "language")).loss(scores) == pytest.approx(0.7)
    assert selection(tuple(SCORES), metric_for_best_model="match.accuracy").loss(SCORES) == 0.9
    assert selection(("language", "other")).loss(picked(SCORES, "language", "other")) == pytest.approx(2.6)


def test_nothing_measured_is_nothing_to_choose_by() -> None:
    assert selection(("topic",))({}) is None


@pytest.mark.parametrize(
    ("metric", "greater", "value"),
    [
        ("topic.f1_macro", None, 0.7),
        ("topic.loss", None, -0.5),
        ("language.perplexity", None, -9.0),
        ("topic.f1_macro", False, -0.7),
        ("topic.loss", True, 0.5),
    ],
)
def test_a_named_metric_is_taken_in_its_own_direction_unless_told_otherwise(
    metric: str, greater: bool | None, value: float
) -> None:
    chosen = selection(("topic", "language"), metric_for_best_model=metric, greater_is_better=greater)
    assert chosen(picked(SCORES, "topic", "language")) == value


def test_a_metric_that_is_not_measured_is_named_with_the_nearest_one() -> None:
    chosen = selection(("topic",), metric_for_best_model="topic.acuracy")
    with pytest.raises(RecipeError, match=r"'topic' has no metric 'acuracy'\. Did you mean 'accuracy'\?"):
        chosen.check(picked(SCORES, "topic"))


def test_a_metric_of_a_task_outside_the_stage_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"stage 's'.*task of the stage"):
        selection(("topic",), metric_for_best_model="match.accuracy")


def worse(task: str, metric: str, was: float, now: float, rows: int = 100) -> list[str]:
    return made_worse({task: {metric: was}}, {task: {metric: now}}, HEADS, {task: rows})


def test_a_share_is_worse_when_it_fell_by_more_than_its_standard_error() -> None:
    error = math.sqrt(0.8 * 0.2 / 100)
    assert worse("topic", "accuracy", 0.8, 0.8 - 1.1 * error) == [
        "task 'topic' got worse: accuracy 0.8 before, 0.756 after"
    ]
    assert worse("topic", "accuracy", 0.8, 0.8 - 0.9 * error) == []
    assert worse("topic", "accuracy", 0.8, 0.9) == []
    assert worse("topic", "accuracy", 1.0, 0.99, rows=50) == []
    assert worse("topic", "accuracy", 1.0, 0.96, rows=50)


def test_anything_else_is_worse_when_it_changed_for_the_worse_by_more_than_a_hundredth() -> None:
    assert worse("language", "perplexity", 10.0, 10.2)
    assert worse("language", "perplexity", 10.0, 10.05) == []
    assert worse("language", "perplexity", 10.0, 5.0) == []


def test_a_task_that_was_not_measured_after_is_not_called_worse() -> None:
    assert made_worse({"topic": {"accuracy": 0.9}}, {}, HEADS, {"topic": 10}) == []
