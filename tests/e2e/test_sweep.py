"""The first commands of docs/how-to/sweep.md with real runs: killed, resumed, and compared as the page says."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core.studies.compare import request

pytest.importorskip("optuna")

PAGE = (Path(__file__).parents[2] / "docs/how-to/sweep.md").read_text(encoding="utf-8")
BLOCK = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].replace("\\\n", " ")
FIRST, AGAIN, COMPARE = (shlex.split(line, comments=True) for line in BLOCK.splitlines())
RECIPE = """
backbone: {model: %s}
tasks:
  topic: {head: classification, data: rows.jsonl}
stages:
  - {name: finetune, tasks: [topic], max_steps: 12, eval_steps: 4, head_warmup_steps: 0}
precision: fp32
"""


@pytest.mark.slow
def test_a_sweep_of_real_runs_is_killed_and_resumed(
    models: Any, toys: ModuleType, start_hft: Any, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE % models["bert"])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(90)))
    sweep = tmp_path / "sweeps/first"
    command = [word if word != "30" else "3" for word in FIRST]
    worker = start_hft([*command, "--slots", "1"], tmp_path)
    until = time.monotonic() + 400
    while not (sweep / "runs/trial-0001/recipe.yaml").exists():
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    first = (sweep / "runs/trial-0000/results.json").read_bytes()

    resumed = start_hft([*AGAIN, "--slots", "1"], tmp_path)
    said = resumed.communicate()[0]
    assert resumed.returncode == 0, said
    assert shlex.join(COMPARE) in said
    assert (sweep / "runs/trial-0000/results.json").read_bytes() == first
    found = json.loads((sweep / "sweep.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3, said
    scores = []
    for trial in found["trials"]:
        run = sweep / f"runs/trial-{trial['number'] - 1:04d}"
        assert hft_core.check_run(run).problems == ()
        results = json.loads((run / "results.json").read_text())
        assert trial["evaluations"] == len(results["stages"][-1]["history"]) > 1
        scores.append(results["final"]["dev"]["topic"]["accuracy"])
        assert trial["score"] == pytest.approx(scores[-1])
    assert found["best"] - 1 == scores.index(max(scores))
    assert request(sweep / "compare.yaml").seeds == (1, 2, 3, 4, 5)
