"""Temperatures and thresholds are the best ones, by search and by scikit-learn's metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.special import expit, softmax
from sklearn import metrics

import hft_core
from hft_core.cli.app import main
from hft_core.plugins.catalogue import Catalogue
from hft_core.predict import prediction, saved_run
from hft_plugins.heads.parts import decisions

RANDOM = np.random.default_rng(0)


def test_a_temperature_that_was_planted_is_found() -> None:
    logits = RANDOM.normal(size=(4000, 4)) * 2
    right = [int(RANDOM.choice(4, p=p)) for p in softmax(logits, axis=1)]
    over_confident = softmax(logits * 3, axis=1).tolist()
    temperature = decisions.fit_temperature(over_confident, right)
    assert temperature == pytest.approx(3, rel=0.06)
    scaled = np.array(decisions.at_temperature(over_confident, temperature))
    assert scaled == pytest.approx(softmax(logits * 3 / temperature, axis=1), abs=1e-6)
    assert (scaled.argmax(axis=1) == logits.argmax(axis=1)).all()
    chosen = lambda p: -np.log(np.array(p)[np.arange(4000), right]).mean()  # noqa: E731
    for other in (temperature * 0.97, temperature * 1.03):
        assert chosen(scaled) < chosen(decisions.at_temperature(over_confident, other))


def test_rows_that_are_all_right_say_nothing_of_a_temperature() -> None:
    assert decisions.fit_temperature([[0.9, 0.1], [0.4, 0.6]], [0, 1]) == 1.0


METRICS: dict[str, Any] = {
    "accuracy": metrics.accuracy_score,
    "f1_macro": lambda a, b: metrics.f1_score(a, b, average="macro", zero_division=0.0),
    "f1_weighted": lambda a, b: metrics.f1_score(a, b, average="weighted", zero_division=0.0),
    "f1_micro": lambda a, b: metrics.f1_score(a, b, average="micro", zero_division=0.0),
    "hamming_loss": lambda a, b: -metrics.hamming_loss(a, b),
}


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "f1_weighted"])
def test_no_other_threshold_of_two_classes_is_better(metric: Any) -> None:
    values = RANDOM.beta(1, 4, 150).round(2)  # with ties
    truth = (RANDOM.random(150) < values * 1.6).astype(int)
    found = decisions.fit_threshold(values.tolist(), truth.tolist(), metric)
    best = METRICS[metric](truth, values >= found)
    others = [METRICS[metric](truth, values >= threshold) for threshold in np.linspace(0, 1.01, 405)]
    assert best == pytest.approx(max(others))
    assert best > METRICS[metric](truth, values >= 0.5)


@pytest.mark.parametrize("metric", ["f1_macro", "f1_micro", "hamming_loss"])
def test_no_other_threshold_of_one_label_is_better(metric: Any) -> None:
    values = expit(RANDOM.normal(-2, 1.5, size=(120, 4)))
    truth = (RANDOM.random((120, 4)) < values * [2, 1, 1.5, 0.5]).astype(int)
    found = np.array(decisions.fit_thresholds(values.tolist(), truth.tolist(), metric))
    best = METRICS[metric](truth, values >= found)
    for label in range(4):
        for threshold in np.linspace(0, 1.01, 102):
            other = found.copy()
            other[label] = threshold
            assert METRICS[metric](truth, values >= other) <= best + 1e-9
    if metric != "hamming_loss":
        assert best > METRICS[metric](truth, values >= 0.5)


def test_a_certain_probability_can_be_refused_and_a_label_without_rows_keeps_one_half() -> None:
    assert decisions.fit_threshold([1.0, 1.0, 0.2], [0, 0, 0], "accuracy") > 1
    assert decisions.fit_thresholds([[0.3, 0.9], [0.1, 0.8]], [[1, 0], [0, 0]], "f1_macro")[1] == 0.5


def rows(toys: ModuleType, count: int) -> list[dict[str, Any]]:
    """Toy rows whose label is wrong in a quarter of them, so that a long training becomes over-confident."""
    found = []
    for i, row in enumerate(toys.rows(count)):
        two = "sport" if (row["label"] == "sport") != (i % 4 == 0) else "other"
        found.append({"text": row["text"], "two": two, "many": [two] if i % 5 else [two, row["label"] + "s"]})
    return found


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("decisions")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(toys, 240)))
    task = {"head": "classification", "label": "two", "data": str(folder / "rows.jsonl")}
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {
            "tuned": {**task, "calibrate": True, "tune_threshold": "f1_macro"},
            "many": {**task, "head": "multilabel", "label": "many", "tune_threshold": "f1_micro"},
        },
        "stages": [{"max_steps": 60, "learning_rate": 3e-3}],
        "precision": "fp32",
    }
    return folder / "run", hft_core.run(recipe, output=folder / "run")


def test_what_was_fitted_is_kept_and_used_wherever_the_run_is_opened(run: tuple[Path, Any], toys: ModuleType) -> None:
    folder, result = run
    fitted = json.loads((folder / "results.json").read_text())["decisions"]
    assert abs(fitted["tuned"]["temperature"] - 1) > 0.05
    assert len(fitted["tuned"]["thresholds"]) == 1 and len(set(fitted["many"]["thresholds"])) > 1
    saved = saved_run.open_run(folder, Catalogue.discover())
    again = prediction.evaluate_recipe_data(saved, ["tuned", "many"])
    for split in ("dev", "test"):
        for task, scores in result.final[split].items():
            assert again[split].scores[task] == pytest.approx(scores, abs=1e-5)
    answers = prediction.predict(saved, "tuned", rows(toys, 40))
    least = fitted["tuned"]["thresholds"][0]
    names = list(answers[0]["probabilities"])
    assert all((a["label"] == names[1]) == (a["probabilities"][names[1]] >= least) for a in answers)


def test_the_lines_of_the_readme_answer_with_what_was_fitted(
    run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run[0]
    monkeypatch.chdir(folder)
    saved = saved_run.open_run(folder, Catalogue.discover())
    for task, key in (("tuned", "label"), ("many", "value")):
        code = re.search(rf"### {task}\n+```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        assert code is not None
        found: dict[str, Any] = {}
        exec(code[1], found)  # noqa: S102
        answers = prediction.predict(saved, task, [{"text": text} for text in found["texts"]])
        assert found["labels"] == [answer[key] for answer in answers]
        wanted = [list(answer["probabilities"].values()) for answer in answers]
        assert found["probabilities"].tolist() == pytest.approx(np.array(wanted), abs=1e-5)


def test_a_temperature_lowers_the_error_of_dev_probabilities(run: tuple[Path, Any]) -> None:
    """The answers that are kept are calibrated; without the temperature they would be worse."""
    folder, result = run
    table = pq.read_table(folder / "predictions/dev/tuned.parquet")
    labels = json.loads(table.schema.metadata[b"hft"])["labels"]
    kept = np.array(table["probabilities"].to_pylist())
    right = [labels.index(label) for label in table["reference"].to_pylist()]
    before = np.array(decisions.at_temperature(kept.tolist(), 1 / result.decisions["tuned"]["temperature"]))
    nll = [-np.log(p[np.arange(len(right)), right]).mean() for p in (kept, before)]
    assert nll[0] < nll[1]
    assert result.calibration["dev"]["tuned"].nll == pytest.approx(nll[0], rel=1e-5)
    assert "| tuned | dev |" in (folder / "README.md").read_text()
    assert "many" not in result.calibration["dev"]


def test_what_was_kept_is_printed_by_column_and_against_another_run(
    run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(run[0])
    assert main(["evaluate", folder, "--by", "two", "--details", "--against", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["what"] for part in found].count("against") == 4
    sliced = next(p for p in found if (p["what"], p["task"], p["split"]) == ("right answers", "tuned", "test"))
    assert {part["name"] for part in sliced["value"]} == {"other", "sport"}
    confusion = next(p["value"] for p in found if (p["what"], p["split"]) == ("confusion", "test"))
    rows = sum(part["rows"] for part in sliced["value"])
    assert sum(map(sum, confusion["counts"])) == rows
    accuracy = run[1].final["test"]["tuned"]["accuracy"]
    assert sum(part["mean"] * part["rows"] for part in sliced["value"]) / rows == pytest.approx(accuracy)
    assert main(["evaluate", folder, "--task", "tuned", "--by", "two", "--details", "--against", folder]) == 0
    printed = capsys.readouterr().out
    for words in ("95 % interval", "ECE", "no difference shown", "only this run is right on 0 rows"):
        assert words in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "tow"], "--by tow: no task has this column. Did you mean 'two'?"),
        (
            ["--details", "--task", "tuned", "--data", "rows.jsonl"],
            "--by, --details and --against read the answers that the run kept: leave --data out",
        ),
        (["--details", "--task", "tunde"], "the run has no task 'tunde'. Did you mean 'tuned'?"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    words: list[str], said: str, run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run[0]), *words]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
