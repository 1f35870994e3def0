"""The stages that are chosen for tasks, data and machine."""

from __future__ import annotations

from typing import Any

import pytest

from hft_core.inspection.auto_plan import Choice, Situation, TaskFacts, choose
from hft_core.inspection.situation import estimated_tokens
from hft_core.recipe.stage import Stage

GIB = 2**30


def task(name: str, head: str = "classification", rows: int = 200, tokens: int = 40) -> TaskFacts:
    return TaskFacts(name, head, head not in ("mlm", "clm"), rows, tokens)


def plan(*tasks: TaskFacts, weights: int | None = GIB // 10, memory: int = 16 * GIB) -> Choice:
    choice = choose(Situation(tasks, weights, memory, "machine"))
    for stage in choice.stages:
        Stage.model_validate(stage)
    return choice


LORA = {"type": "lora", "r": 16}
TOPIC, FITS, TEXTS = task("topic"), task("fits", rows=1_000), task("texts", "mlm")


@pytest.mark.parametrize(
    ("tasks", "machine", "stages"),
    [
        ([TOPIC], {}, [{"name": "finetune", "tasks": ["topic"], "strategy": "full"}]),
        ([TOPIC], {"memory": GIB // 2}, [{"name": "finetune", "tasks": ["topic"], "strategy": LORA}]),
        ([TOPIC], {"weights": None}, [{"name": "finetune", "tasks": ["topic"], "strategy": LORA}]),
        (
            [TOPIC, FITS],
            {},
            [{"name": "finetune", "tasks": ["topic", "fits"], "strategy": LORA, "sampling": {"temperature": 2}}],
        ),
        (
            [TOPIC, task("stars", "regression")],
            {},
            [{"name": "finetune", "tasks": ["topic", "stars"], "strategy": LORA, "combiner": "uncertainty"}],
        ),
        (
            [TEXTS, TOPIC],
            {},
            [
                {"name": "pretrain", "tasks": ["texts"], "strategy": "full", "epochs": 1},
                {"name": "finetune", "tasks": ["topic"], "strategy": "full"},
            ],
        ),
        ([TEXTS], {"memory": GIB // 2}, [{"name": "pretrain", "tasks": ["texts"], "strategy": LORA}]),
    ],
)
def test_the_stages(tasks: list[TaskFacts], machine: dict[str, Any], stages: list[dict[str, Any]]) -> None:
    choice = plan(*tasks, **machine)
    assert choice.stages == stages
    assert len(choice.reasons) >= len(stages)


def test_lengths_hold_nearly_all_texts_and_long_ones_are_left_to_the_model() -> None:
    choice = plan(task("short", tokens=33), task("long", tokens=400), task("language", "mlm", tokens=10))
    assert choice.max_lengths == {"short": 64}
    assert "short: 95 % of its texts have at most about 33 tokens, so that longer ones are cut at 64" in choice.reasons


def test_the_reasons_say_what_was_found() -> None:
    reasons = " / ".join(plan(TEXTS, TOPIC, FITS, weights=8 * GIB).reasons)
    for part in (
        "texts has no labels: one pass of language modelling, by a LoRA (training all 8.0 GiB of weights takes",
        "the machine has 16 GiB), before the tasks with labels",
        "2 tasks with labels: one LoRA on all of them",
        "between 200 and 1,000 rows a task: temperature 2",
        "1,200 rows with labels: 3 epochs in steps of 32 rows",
    ):
        assert part in reasons


@pytest.mark.parametrize(
    ("cell", "tokens"),
    [("", 2), ("three small words", 6), ("天气很好。", 8), (["two", "words"], 5), ([{"content": "hi"}], 3)],
)
def test_tokens_are_estimated_without_a_tokenizer(cell: Any, tokens: int) -> None:
    assert estimated_tokens(cell) == tokens
