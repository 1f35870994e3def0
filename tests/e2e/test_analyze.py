"""`hft analyze` on tasks of which is known whether they conflict."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core.analysis.analyze import analyze
from hft_core.cli.app import main
from hft_core.errors import UsageError
from hft_core.plugins.catalogue import Catalogue
from hft_core.predict import SavedRun, open_run


@pytest.fixture(scope="module")
def trained(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with a task, the same task again, and one whose labels are exchanged, by strategy."""
    folder = tmp_path_factory.mktemp("analyze")
    rows = toys.rows(48)
    kinds = sorted({row["label"] for row in rows})[:2]
    rows = [row for row in rows if row["label"] in kinds]
    for name, exchanged in (("same", False), ("again", False), ("opposite", True)):
        lines = [
            {"text": row["text"], "label": kinds[1 - kinds.index(row["label"])] if exchanged else row["label"]}
            for row in rows
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    found = {}
    for strategy in ("full", "lora", "frozen"):
        recipe = {
            "backbone": str(models["bert"]),
            "tasks": {
                name: {"head": "classification", "data": str(folder / f"{name}.jsonl")}
                for name in ("same", "again", "opposite")
            },
            # Heads that are alike: only the labels differ.
            "stages": {"strategy": strategy, "max_steps": 2, "head_learning_rate": 0.05, "learning_rate": 1e-3},
            "precision": "fp32",
        }
        found[strategy] = folder / strategy
        hft_core.run(recipe, output=found[strategy])
    return found


def opened(folder: Path) -> SavedRun:
    return open_run(folder, Catalogue.discover())


def test_the_same_task_helps_and_the_opposite_one_conflicts(trained: dict[str, Path]) -> None:
    saved = opened(trained["full"])
    # From equal heads that find both labels equally likely, exchanged labels reverse the gradient.
    head = {name: tensor * 0.01 for name, tensor in saved.model.head("same").state_dict().items()}
    for task in saved.model.heads:
        saved.model.head(task).load_state_dict(head)
    found = analyze(saved, rows=8, draws=4)
    pairs = {pair.tasks: pair for pair in found.pairs}
    assert pairs["same", "again"].cosine == pytest.approx(1.0, abs=1e-4)
    assert pairs["same", "again"].conflicts == 0
    assert pairs["same", "opposite"].cosine < -0.9
    assert pairs["same", "opposite"].conflicts == 1
    same, again, opposite = range(3)
    assert found.affinity[same][again] > 0 > found.affinity[same][opposite]
    assert found.groups is not None
    assert sorted(sorted(group) for group in found.groups) == [["again", "same"], ["opposite"]]


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_pairs_groups_and_steps_are_measured_and_the_model_is_left_as_it_is(
    strategy: str, trained: dict[str, Path]
) -> None:
    saved = opened(trained[strategy])
    before = {name: tensor.clone() for name, tensor in saved.model.state_dict().items()}
    found = analyze(saved, rows=8, draws=4)
    assert all(bool((tensor == before[name]).all()) for name, tensor in saved.model.state_dict().items())
    assert found.tasks == ("same", "again", "opposite")
    assert [pair.tasks for pair in found.pairs] == [("same", "again"), ("same", "opposite"), ("again", "opposite")]
    assert all(-1 <= pair.cosine <= 1 and 0 <= pair.conflicts <= 1 for pair in found.pairs)
    assert all(name.startswith(("layer ", "outside")) for pair in found.pairs for name in pair.by_layer)
    own = [found.affinity[i][i] for i in range(3)]
    assert all(value > 0 for value in own), "a step down a task's gradient lowers its loss"
    assert analyze(opened(trained[strategy]), rows=8, draws=4) == found


def test_the_command_prints_tables_and_json(trained: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained["lora"])
    assert main(["analyze", run, "--rows", "4", "--draws", "2"]) == 0
    shown = capsys.readouterr().out
    assert "same – opposite" in shown
    assert "a step on" in shown
    assert "train together" in shown
    assert main(["analyze", run, "--rows", "4", "--draws", "2", "--task", "same", "--task", "opposite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"] == ["same", "opposite"]
    assert len(told["pairs"]) == 1


def test_what_shares_nothing_is_refused(trained: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"the tasks share nothing that strategy 'frozen' trains"):
        analyze(opened(trained["frozen"]))
    saved = opened(trained["lora"])
    with pytest.raises(UsageError, match=r"expected two or more tasks that were trained together, found same"):
        analyze(saved, ["same"])
    with pytest.raises(UsageError, match=r"trains no task 'oposite'\. Did you mean 'opposite'\?"):
        analyze(saved, ["same", "oposite"])
