from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import hft_core
from hft_core import Catalogue, ModelError
from hft_core.cli.app import main
from hft_core.predict import prediction, saved_run
from hft_core.runs import answers

TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "marks": {"head": "multilabel", "label": "labels"},
    "score": {"head": "regression", "label": "score"},
    "tags": {"head": "token-classification", "words": "words", "tags": "tags"},
    "choice": {"head": "multiple-choice", "text": "text", "choices": "choices", "label": "right"},
    "language": {"head": "mlm"},
}


def rows_of(toys: ModuleType, count: int, seed: int) -> list[dict[str, Any]]:
    rows = toys.rows(count, seed=seed)
    for row in rows:
        words = row["text"].split()
        row |= {"words": words, "tags": ["B-X" if word == "the" else "O" for word in words]}
        row |= {"labels": [row["label"], row["fits"]], "choices": [row["text"], row["other"]], "right": row["other"]}
    return rows


def recipe_of(models: Any, **output: Any) -> dict[str, Any]:
    return {
        "backbone": {"model": str(models["bert"])},
        "tasks": TASKS,
        "stages": [{"strategy": "lora", "max_steps": 2, "learning_rate": 0.01}],
        "precision": "fp32",
        "output": output,
    }


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    rows = {split: rows_of(toys, n, s) for split, n, s in (("train", 30, 0), ("dev", 9, 1), ("test", 12, 2))}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, hft_core.run(recipe_of(models), data=dict.fromkeys(TASKS, rows), output=folder)


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_the_finished_run(task: str, run: tuple[Path, Any], toys: ModuleType) -> None:
    folder, result = run
    rows = rows_of(toys, 12, 2)
    kept = answers.read(answers.path_of(folder / "predictions", "test", task))
    assert kept.places == [(task, i) for i in range(1, 13)]
    losses, head = kept.column("loss"), TASKS[task]["head"]
    if losses is not None:
        targets = {"tags": sum(len(row["words"]) for row in rows), "marks": 12 * 5, "language": None}.get(task, 12)
        if targets:
            assert sum(losses) / targets == pytest.approx(result.final["test"][task]["loss"], rel=1e-5)
    assert (losses is None) == (head == "multiple-choice")
    if head == "mlm":
        assert kept.column("prediction") is None
        return
    cells = {"topic": "label", "marks": "labels", "score": "score", "tags": "tags", "choice": "right"}
    reference = kept.column("reference")
    wanted = [row[cells[task]] for row in rows]
    assert [sorted(r) if task == "marks" else r for r in reference or ()] == [
        sorted(w) if task == "marks" else w for w in wanted
    ]
    saved = saved_run.open_run(folder, Catalogue.discover())
    said = prediction.predict(saved, task, rows)
    key = {"topic": "label", "choice": "text"}.get(task, "value")
    told = [answer[key] for answer in said]
    assert kept.column("prediction") == (pytest.approx(told, rel=1e-4) if task == "score" else told)
    if task in ("topic", "marks"):
        np.testing.assert_allclose(
            np.array(kept.column("probabilities")), [list(a["probabilities"].values()) for a in said], atol=1e-5
        )
        assert kept.labels == tuple(said[0]["probabilities"])
    if task == "topic":
        assert kept.correct is not None
        assert kept.correct.mean() == pytest.approx(result.final["test"][task]["accuracy"])


def test_dev_rows_have_answers_too_and_the_manifest_lists_all(run: tuple[Path, Any], capsys: Any) -> None:
    folder, _ = run
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    files = {f"predictions/{split}/{task}.parquet" for split in ("dev", "test") for task in TASKS}
    assert files <= listed.keys()
    assert len(pq.read_table(folder / "predictions/dev/topic.parquet")) == 9
    (folder / "predictions" / "dev" / "other.parquet").write_bytes(b"x")
    try:
        assert main(["check", str(folder)]) == 1
    finally:
        (folder / "predictions" / "dev" / "other.parquet").unlink()
    assert "other.parquet" in capsys.readouterr().out
    with pytest.raises(ModelError, match=r"kept no answers there \(output.predictions"):
        answers.read(answers.path_of(folder / "predictions", "test", "topics"))


def test_a_run_without_answers_and_one_whose_answers_fail_are_finished(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {split: rows_of(toys, n, s) for split, n, s in (("train", 20, 0), ("dev", 6, 1), ("test", 6, 2))}
    recipe = recipe_of(models, predictions=False) | {"tasks": {"topic": TASKS["topic"]}}
    hft_core.run(recipe, data={"topic": rows}, output=tmp_path / "none")
    assert not (tmp_path / "none" / "predictions").exists()

    def fail(*_: Any) -> Any:
        raise KeyError("of a plugin")

    monkeypatch.setattr("hft_plugins.heads.classification.Classification.answer", fail)
    result = hft_core.run(recipe | {"output": {}}, data={"topic": rows}, output=tmp_path / "failing")
    assert sum("its answers are not in predictions/" in warning for warning in result.warnings) == 2
