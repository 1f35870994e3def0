"""`hft init`, from files to a trained model, with nothing written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_written_recipe_trains(tmp_path: Path, hft: Any, models: Any, toys: Any) -> None:
    rows = toys.rows(90)
    with (tmp_path / "topics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label", "score"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "articles.txt").write_text("\n".join(row["other"] for row in rows))
    recipe = tmp_path / "new" / "recipe.yaml"
    recipe.parent.mkdir()
    files = (str(tmp_path / "topics.csv"), "--unlabeled", str(tmp_path / "articles.txt"))
    command = ("init", *files, "--model", str(models["bert"]), "--out", str(recipe))
    printed = hft(*command)
    assert "label: classification: 'label' is one of 3 classes" in printed
    assert f"next: hft validate {recipe}; then: hft run {recipe}" in printed
    written = recipe.read_text()
    assert "# classification: 'label' is one of 3 classes" in written
    assert "overwrites nothing" in hft(*command, code=2)
    assert recipe.read_text() == written
    fewer = (
        "--set",
        "stages.finetune.max_steps=4",
        "--set",
        "stages.pretrain.epochs=",
        "--set",
        "stages.pretrain.max_steps=2",
    )
    hft("run", str(recipe), *fewer, "--out", str(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["final"]["test"]) == {"label", "score", "articles"}
    assert [stage["name"] for stage in results["stages"]] == ["pretrain", "finetune"]
