"""What the README shows is true: its recipe and its Python run."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hft_core
from hft_core.recipe import recipe_file

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_recipe_runs(
    bert: Path,
    folder: Callable[..., Path],
    made: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (text,) = blocks("yaml")
    folder("tnews", train=made("tnews", 24), dev=made("tnews", 9, 1))
    (tmp_path / "texts.txt").write_text("语言模型正在预测词语。\n自然语言处理。\n" * 10, encoding="utf-8")
    (tmp_path / "terms.txt").write_text("自然语言处理 9\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    changes = ["precision=fp32", f"backbone.model={bert}"]
    source = recipe_file.override(recipe_file.parse(text, "README.md"), changes)
    result = hft_core.run(recipe_file.validate(source), output=tmp_path / "run")
    assert set(result.final["dev"]) == {"language", "topic"}
    assert {plugin["name"] for plugin in result.plugins} >= {"mlm-jieba", "lora"}


@pytest.mark.parametrize(("code", "task"), list(zip(blocks("python"), ("tnews", "cluener"), strict=True)))
def test_the_python_runs(
    code: str,
    task: str,
    bert: Path,
    folder: Callable[..., Path],
    made: Callable[..., list[dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder(f"{task}_public", train=made(task, 12), dev=made(task, 6, 1))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(code.replace("hfl/chinese-macbert-base", str(bert)), encoding="utf-8")
    names = runpy.run_path(str(script))
    assert len(names["rows"]["train"]) == 12
    assert task != "tnews" or (names["result"].folder / "model" / "tnews" / "config.json").is_file()
