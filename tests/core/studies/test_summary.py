from __future__ import annotations

import json
from typing import Any

from hft_core.studies import tables
from hft_core.studies.evidence import ArmEvidence
from hft_core.studies.summary import Summary, summarize

SEEDS = (0, 1, 2, 3, 4)
NOISE = (0.0, 0.004, -0.003, 0.002, -0.002)


def arm(name: str, gain: float = 0.0, noise: int = 1, seconds: float = 10.0, **facts: Any) -> ArmEvidence:
    """An arm whose accuracy is 0.8 + gain and whose loss is 2 - gain, each with the noise in another order."""
    moved = [NOISE[(i * noise) % 5] for i in SEEDS]
    tasks = {
        "topic": {"accuracy": [0.8 + gain + n + i / 100 for i, n in enumerate(moved)]},
        "price": {"mae": [2.0 - gain + n + i / 100 for i, n in enumerate(moved)]},
    }
    return ArmEvidence(
        name,
        seeds=list(SEEDS),
        scores={"dev": tasks, "test": tasks},
        main_metrics={"topic": "accuracy", "price": "mae"},
        greater_is_better={"topic": True, "price": False},
        cost={"rows": 100.0, "trainable": 1000.0, "seconds": seconds, "tokens": 0, "steps": 5, "peak_memory": 0},
        **facts,
    )


def judged(*arms: ArmEvidence) -> Summary:
    return summarize(arms, arms[0].name, SEEDS, ("topic", "price"))


def verdicts(summary: Summary, name: str) -> list[str]:
    return [c.verdict for c in summary.comparisons if c.arm == name]


def test_an_arm_that_is_better_is_recommended_with_the_reason() -> None:
    found = judged(arm("sum"), arm("good", 0.05, noise=2), arm("bad", -0.05, noise=3))
    assert (verdicts(found, "good"), verdicts(found, "bad")) == (["better"] * 2, ["worse"] * 2)
    assert found.recommended == "good"
    assert "is better than 'sum' on the test rows of 2 of 2 tasks" in found.reason
    assert found.delta_m["good"]["test"]["parts"]["price"] > 0  # a lower error


def test_a_control_that_nothing_beats_wins_and_the_study_says_so() -> None:
    alone = arm("frozen", 0.0, noise=2, seconds=2.0, control="heads alone")
    found = judged(arm("fancy"), alone, arm("other", 0.0005, noise=3))
    assert set(verdicts(found, "frozen") + verdicts(found, "other")) == {"no difference shown"}
    assert found.recommended == "frozen"
    assert found.reason.startswith("no arm is shown to be better than 'fancy', and 'frozen' is the cheapest")
    assert "seconds × 0.20" in found.budgets["frozen"]
    assert found.pareto == ("frozen", "other")


def test_failed_seeds_are_left_out_and_said() -> None:
    short = arm("short", 0.05, noise=2, failed={4: "out of memory"})
    short.seeds.pop()
    for split in short.scores.values():
        for metrics in split.values():
            for values in metrics.values():
                del values[4:]
    found = judged(arm("sum"), short)
    assert [c.statistics.seeds for c in found.comparisons if c.statistics] == [4, 4]
    assert "short, seed 4 failed: out of memory" in found.notes
    assert "5 seeds cannot give a sign-flip p below 0.0625; the verdicts are by the t test" in found.notes


def test_one_seed_shows_nothing_and_is_written_as_plain_json() -> None:
    one = [arm("a"), arm("b", 0.2)]
    for each in one:
        each.seeds = [0]
        each.scores = {
            s: {t: {m: v[:1] for m, v in ms.items()} for t, ms in ts.items()} for s, ts in each.scores.items()
        }
    found = judged(*one)
    assert verdicts(found, "b") == ["no difference shown"] * 2
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["comparisons"][0]["statistics"]["low"] is None
    page = tables.markdown(found)
    assert "| b | 1 | 1 | +0.2 | – | 1 | – | no difference shown |" in page
    assert "- recommended: " in page
