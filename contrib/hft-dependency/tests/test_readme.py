"""What the README shows runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from hft_core.cli import main
from hft_core.testing import trunks
from hft_dependency.example_rows import dependency

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_recipe_trains_and_the_commands_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").symlink_to(trunks.folder("BERT"))
    for name, count in (("train", 16), ("dev", 4)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dependency(count, 0)))
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    Path("parser.yaml").write_text(recipe)
    commands = [line for line in README.splitlines() if line.startswith(("hft run", "hft predict"))]
    assert len(commands) == 2
    for command in commands:
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr()
    said = json.loads(capsys.readouterr().out)
    assert [each["word"] for each in said["value"]] == ["the", "cat", "saw", "it"]
