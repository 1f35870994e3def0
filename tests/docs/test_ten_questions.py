"""The commands of "Ten questions", typed as they stand there. (What `hft compare` does is tested elsewhere.)"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hft_core.cli.app import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "ten-questions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]


def test_there_are_ten_questions_each_with_threads_and_a_command() -> None:
    questions = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(questions) == 10
    for question in questions:
        assert re.search(r"^\*\[.+/(issues|pull)/\d+\)\*$", question, re.MULTILINE | re.DOTALL), question
        assert "```sh\nhft " in question


@pytest.mark.slow
def test_the_commands_run(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("encoder").symlink_to(models["bert"])
    Path("articles").mkdir()
    rows = toys.rows(220)
    Path("articles", "one.txt").write_text("".join(row["text"] + "\n" for row in rows))
    Path("topics.csv").write_text("article,topic\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    pairs = [{"headline": row["text"], "article": row["other"], "fits": row["fits"]} for row in rows]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    Path("recipe.yaml").write_text(re.sub(r"epochs: \d", "max_steps: 4", recipe))
    for command in COMMANDS:
        _, verb, *arguments = shlex.split(command)
        if verb == "run" and "recipe.yaml" not in arguments:  # a hundred steps and more
            verb, arguments = "validate", arguments[: arguments.index("--out")]
        if verb not in ("compare", "resume"):  # the run that is resumed was not stopped
            assert main([verb, *arguments]) == 0, command
    assert Path("forgetting.html").stat().st_size > 10_000
    results = json.loads(Path("runs", "task-lora", "results.json").read_text())
    assert results["stages"][1]["strategy"] == "task-lora"
