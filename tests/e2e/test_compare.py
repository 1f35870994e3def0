"""The commands of docs/how-to/compare.md, interrupted and resumed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/how-to/compare.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
FIRST, AGAIN = (shlex.split(line, comments=True) for line in BLOCKS[0].splitlines())

RECIPE = """
backbone: {model: %s}
tasks:
  language: {head: mlm, data: rows.jsonl}
  topic: {head: classification, data: rows.jsonl}
stages:
  - {name: pretrain, tasks: [language], max_steps: 4}
  - {name: finetune, tasks: [topic], max_steps: 6, learning_rate: 3e-3}
precision: fp32
output: {save_strategy: steps, save_steps: 2}
"""


def weights(run: Path) -> dict[str, bytes]:
    files = [*run.glob("model/**/*.safetensors"), *run.glob("predictions/**/*.parquet")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_study_resumes_after_ctrl_c_and_shares_its_first_stage(
    models: Any, toys: ModuleType, start_hft: Any, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE % models["bert"])
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(90)))
    study = tmp_path / "studies/strategy"
    command = [*(word if word != "5" else "2" for word in FIRST), "--controls", "tf-idf", "--slots", "1"]
    stopped = start_hft(command, tmp_path)
    results = study / "runs/full/seed-0/results.json"
    until = time.monotonic() + 300
    while not (results.exists() and (study / "runs/full/seed-1/recipe.yaml").exists()):
        assert stopped.poll() is None, stopped.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    first = results.read_bytes()
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate()[0]
    assert stopped.returncode == 130, said
    assert "resume with: hft compare --resume --out studies/strategy" in said
    assert not (study / "runs/full/seed-1/results.json").exists()

    resumed = start_hft(AGAIN, tmp_path)
    said = resumed.communicate()[0]
    assert resumed.returncode == 0, said
    assert results.read_bytes() == first  # a finished run is not touched
    summary = json.loads((study / "study.json").read_text())
    assert [arm["name"] for arm in summary["arms"]] == ["full", "lora", "tf-idf"]
    assert all(arm["seeds"] == [0, 1] for arm in summary["arms"])
    lora = summary["arms"][1]["scores"]["test"]["topic"]["accuracy"]

    one, other = (json.loads((study / f"runs/{arm}/seed-0/results.json").read_text()) for arm in ("full", "lora"))
    assert one["stages"][0]["seconds"] == other["stages"][0]["seconds"]  # one run trained it for both
    apart = start_hft(
        ["hft", "run", str(study / "recipes/lora/0.yaml"), "--out", "apart"],
        tmp_path,
        threads=len(os.sched_getaffinity(0)),
    )
    said = apart.communicate()[0]
    assert apart.returncode == 0, said
    assert weights(tmp_path / "apart") == weights(study / "runs/lora/seed-0")
    assert json.loads((tmp_path / "apart/results.json").read_text())["final"]["test"]["topic"]["accuracy"] == lora[0]
    assert (study / "recommended.yaml").read_text().startswith(f"# {summary['reason']}.\n")


@pytest.mark.parametrize("words", [["--resume"], ["recipe.yaml", "--out", "x"]])
def test_a_comparison_of_nothing_is_refused(words: list[str], tmp_path: Path, capsys: Any) -> None:
    from hft_core.cli.app import main

    (tmp_path / "recipe.yaml").write_text(RECIPE % "m")
    assert main(["compare", *[str(tmp_path / w) if w in ("recipe.yaml", "x") else w for w in words]]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert ("--out STUDY is missing" in said) or ("nothing to compare: give --vary" in said)
