"""A study with tries of the learning rate; a launcher stands in for the runs, whose scores follow from the rate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hft_core import Catalogue, HftError, UsageError
from hft_core.launcher import Handle, Launcher, Slot
from hft_core.studies import arms
from hft_core.studies.compare import request, study
from hft_core.studies.summary import Summary
from hft_core.studies.tuning import factors

RECIPE = """
backbone: {type: hf-encoder, model: some/model}
tasks:
  topic: {head: classification, data: a.csv}
stages:
  - {name: finetune, tasks: [topic], strategy: full}
"""
OWN = {"full": 5e-5, "lora": 3e-4, "frozen": 5e-5}
BEST = {"full": 1.5e-4, "lora": 3e-4, "frozen": 1e-9}
"""Where the scores of a strategy are best; a frozen trunk learns with the head's rate, best at 9e-3."""


class Ended(Handle):
    def poll(self) -> int:
        return 0

    def stop(self) -> None: ...


class Runs(Launcher):
    """Write the results of `hft run RECIPE --out FOLDER` at once; rates from `diverges` on fail."""

    def __init__(self, diverges: float = math.inf) -> None:
        self.diverges, self.started = diverges, list[str]()

    def slots(self, count: int | None) -> list[Slot]:
        return [Slot(0, 1)]

    def launch(self, argv: Sequence[str], slot: Slot, log: Path) -> Ended:
        recipe, out = (Path(argv[argv.index(word) + 1]) for word in ("run", "--out"))
        self.started.append(out.as_posix())
        data = yaml.safe_load(recipe.read_text())
        stage = data["stages"][-1]
        strategy = stage["strategy"]["type"] if isinstance(stage["strategy"], dict) else stage["strategy"]
        rate, head = stage["learning_rate"] or OWN[strategy], stage["head_learning_rate"] or 1e-3
        log.parent.mkdir(parents=True, exist_ok=True)
        if rate >= self.diverges:
            log.write_text("error: the loss is not finite\n")
            return Ended()
        far = math.log10(head / 9e-3) if strategy == "frozen" else math.log10(rate / BEST[strategy])
        score = 0.9 - 0.1 * abs(far) + 0.001 * (data["seed"] % 7)
        scores = {"topic": {"accuracy": score, "loss": 1 - score}}
        told = {"trainable": 0 if strategy == "frozen" else 10, "trunk": 10, "learning_rate": rate, "tasks": ["topic"]}
        told |= {"head_learning_rate": head, "head_learning_rates": {"topic": head}, "before": {}}
        told |= {"rows": 1, "tokens": 1, "steps": 1, "seconds": {"total": 1.0}}
        results = {"final": {"dev": scores, "test": scores}, "stages": [told], "base_lm_loss": {}}
        results |= {"main_metrics": {"topic": "accuracy"}, "greater_is_better": {"topic": True}}
        out.mkdir(parents=True)
        (out / "results.json").write_text(json.dumps(results))
        return Ended()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def compared(recipe: Path, folder: Path, runs: Runs, **asked: Any) -> Summary:
    varied = arms.vary(["stages.finetune.strategy=full,lora,frozen"])
    given = request(recipe, varied, seeds=(0, 1), kinds=(), tries=asked.pop("tries", 3))
    return study(given, folder, Catalogue.discover(), launcher=runs, **asked)


def test_each_arm_is_compared_at_the_best_of_its_tries(recipe: Path, tmp_path: Path) -> None:
    runs = Runs()
    found = compared(recipe, tmp_path / "s", runs)
    assert len(runs.started) == 3 * 3 + 3 * 2
    full, lora, frozen = found.tuning
    assert (full.key, full.chosen) == ("learning_rate", pytest.approx(1.5e-4))
    assert full.rates == pytest.approx((5e-5, 1.5e-4, 5e-5 / 3)) and full.gains[0] == 0 and full.at_edge
    assert (lora.chosen, lora.at_edge) == (3e-4, False)
    assert (frozen.key, frozen.chosen) == ("head_learning_rate", pytest.approx(3e-3))
    by_name = {arm.name: arm for arm in found.arms}
    assert by_name["full"].overrides[-1] == "stages.0.learning_rate=0.00015"
    assert by_name["full"].mean("test", "topic") == pytest.approx(0.9 + 0.0005)
    kept = [yaml.safe_load((tmp_path / f"s/recipes/lora/{seed}.yaml").read_text()) for seed in (0, 1)]
    assert [each["seed"] for each in kept] == [0, 1] and kept[0]["stages"][0]["learning_rate"] is None
    assert any(note.startswith("full: the chosen learning_rate is at the edge") for note in found.notes)
    assert "| full | learning_rate | 1.67e-05 (" in (tmp_path / "s/README.md").read_text()


def test_a_try_that_diverges_is_not_chosen_and_does_not_end_the_study(recipe: Path, tmp_path: Path) -> None:
    found = compared(recipe, tmp_path / "s", Runs(diverges=4e-4))
    lora = found.tuning[1]
    assert lora.gains[1] is None and lora.chosen == 3e-4
    assert all(arm.seeds == [0, 1] for arm in found.arms)


def test_a_resumed_study_keeps_what_was_chosen(recipe: Path, tmp_path: Path) -> None:
    first, runs = compared(recipe, tmp_path / "s", Runs(diverges=4e-4)), Runs()
    again = study(None, tmp_path / "s", Catalogue.discover(), launcher=runs, resume=True)
    assert runs.started == []
    assert again == first


def test_a_study_that_was_not_tuned_is_not_resumed_as_if_it_were(recipe: Path, tmp_path: Path) -> None:
    compared(recipe, tmp_path / "s", Runs(), tries=0)
    with pytest.raises(UsageError, match="has no tries of the learning rate: resume it without --tune"):
        compared(recipe, tmp_path / "s", Runs(), tries=3, resume=True)


def test_a_study_is_resumed_as_it_was_begun(recipe: Path, tmp_path: Path) -> None:
    compared(recipe, tmp_path / "s", Runs(), tries=0)
    plugins, folder = Catalogue.discover(), tmp_path / "s"
    varied = arms.vary(["stages.finetune.strategy=full,lora,frozen"])
    other = recipe.with_name("other.yaml")
    other.write_text(RECIPE)
    for asked, said in (
        (request(other, varied), "has the recipe '.*recipe.yaml'"),
        (request(recipe, arms.vary(["stages.finetune.strategy=full,lora"])), "has other arms"),
        (request(recipe, varied, against="lora"), "has the reference 'full'"),
        (request(recipe, varied, kinds=("sum",)), r"has the controls \(none\)"),
    ):
        with pytest.raises(UsageError, match=said):
            study(asked, folder, plugins, launcher=Runs(), resume=True)
    runs = Runs()
    again = study(request(recipe, varied), folder, plugins, launcher=runs, resume=True)
    assert not runs.started and again.seeds == (0, 1)
    found = study(request(recipe, varied, seeds=(2,)), folder, plugins, launcher=runs, resume=True)
    assert len(runs.started) == 3 and found.seeds == (0, 1, 2)
    with pytest.raises(UsageError, match="leave them out; for more seeds, name its recipe"):
        request(None, seeds=(2,))


def test_a_resumed_study_has_the_launcher_it_was_begun_with(recipe: Path, tmp_path: Path) -> None:
    compared(recipe, tmp_path / "s", Runs(), tries=0)
    plan = tmp_path / "s" / "plan.json"
    plan.write_text(plan.read_text().replace('"launcher": ""', '"launcher": "slurm,gpu=1"'))
    with pytest.raises(HftError, match=r"slurm.*gpu"):
        study(None, tmp_path / "s", Catalogue.discover(), resume=True)


def test_an_arm_whose_own_rate_fails_is_left_as_it_is_and_named(recipe: Path, tmp_path: Path) -> None:
    found = compared(recipe, tmp_path / "s", Runs(diverges=2e-4))
    reason = "error: the loss is not finite"
    assert f"lora: its learning rate was not tuned: {reason}" in found.notes
    assert f"lora, seed 0 failed: {reason}" in found.notes
    assert found.tuning[0].chosen == pytest.approx(1.5e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("learning_rate", "expected learning_rate=N, with 2 to 9 tries"),
        ("learning_rate=1", "expected learning_rate=N, with 2 to 9 tries"),
        ("dropout=3", "'dropout' is not tuned, expected learning_rate=N"),
    ],
)
def test_what_cannot_be_tuned_is_refused(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        arms.tries_of(given)


def test_tries_lie_on_both_sides_of_an_arms_own_rate() -> None:
    assert factors(5) == pytest.approx([1, 3, 1 / 3, 9, 1 / 9])


def test_a_file_asks_for_tries(tmp_path: Path, recipe: Path) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text("recipe: recipe.yaml\narms: {a: {}, b: {precision: fp32}}\ntune: {learning_rate: 3}\n")
    assert request(file).tries == 3
    file.write_text("recipe: recipe.yaml\narms: {a: {}}\ntune: 3\n")
    with pytest.raises(UsageError, match=r"tune: found 3, expected \{learning_rate: N\}"):
        request(file)
