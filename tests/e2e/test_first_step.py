"""What is loaded when training begins: a library that is not needed by then would make every run wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOT_YET = {"peft", "sklearn", "seqeval", "torchjd", "rouge_score", "sacrebleu", "joblib"}
OBSERVER = """
import json, pathlib, sys
from hft_core import hookimpl

@hookimpl
def hft_step_finished(event):
    pathlib.Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.slow
def test_a_plain_run_has_trained_before_it_loads_metrics_or_adapters(
    tmp_path: Path, models: Any, toys: ModuleType
) -> None:
    (tmp_path / "seen.py").write_text(OBSERVER)
    rows = [{**row, "topics": [row["label"]]} for row in toys.rows(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "backbone": {"type": "hf-encoder", "model": str(models["bert"])},
        "tasks": {
            "topic": {"head": "classification", "data": {"train": "rows.jsonl"}},
            "score": {"head": {"type": "regression", "label": "score"}, "data": {"train": "rows.jsonl"}},
            "topics": {"head": {"type": "multilabel", "label": "topics"}, "data": {"train": "rows.jsonl"}},
        },
        "stages": [{"strategy": "full", "max_steps": 1}],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    done = subprocess.run(
        [sys.executable, "-m", "hft_core", "run", "recipe.yaml", "--plugin", "seen.py", "--out", "run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads((tmp_path / "modules.json").read_text()))
    assert "torch" in loaded
    assert sorted(NOT_YET & loaded - loaded_by_hand(models["bert"])) == []


def loaded_by_hand(model: Path) -> set[str]:
    """What loading the model by hand imports: some versions of transformers need scikit-learn for it."""
    code = (
        "import json, sys; from transformers import AutoModel, AutoTokenizer; "
        f"AutoModel.from_pretrained({str(model)!r}); AutoTokenizer.from_pretrained({str(model)!r}); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))
