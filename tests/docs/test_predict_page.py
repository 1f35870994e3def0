"""The commands and lines of "Predict on files", typed as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

import hft_core
from hft_core.cli.app import main

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "predict.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
(LINES,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tasks: dict[str, dict[str, Any]] = {
        "topic": {"head": "classification"},
        "score": {"head": {"type": "regression", "label": "score"}},
    }
    recipe = {"backbone": str(models["bert"]), "tasks": tasks, "stages": {"max_steps": 1}, "precision": "fp32"}
    hft_core.run(recipe, data={task: toys.rows(30) for task in tasks}, output="runs/news")
    texts = [row["text"] for row in toys.rows(9, seed=1)]
    rows = [json.dumps({"text": text}) for text in texts]
    Path("new.jsonl").write_text("\n".join(rows))
    Path("mixed.jsonl").write_text("\n".join([*rows, "{}", '{"text": " "}']))
    pd.DataFrame({"text": texts}).to_csv("new.csv", index=False)
    for command in COMMANDS:
        if command.startswith("hft "):
            assert main(shlex.split(command)[1:]) == 0, command
    whole = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    parts = [json.loads(line) for i in (1, 2) for line in Path(f"answers-{i}.jsonl").read_text().splitlines()]
    assert [row["text"] for row in whole] == [row["text"] for row in parts] == texts
    assert [row["label"] for row in whole] == [row["label"] for row in parts]
    assert [row["topic"]["label"] for row in pd.read_parquet("answers.parquet").to_dict("records")] == [
        row["label"] for row in whole
    ]
    assert len(Path("some.jsonl").read_text().splitlines()) == 9
    assert [json.loads(line)["number"] for line in Path("rejected.jsonl").read_text().splitlines()] == [10, 11]
    capsys.readouterr()
    exec(LINES, {})  # noqa: S102 (the page of this repository)
    assert capsys.readouterr().out.strip() == whole[0]["label"]
