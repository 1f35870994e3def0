"""The pages under docs/migrate: the neighbor's script and hft, run on the same rows and model, have the same result."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hft_core.cli.app import main

pytestmark = pytest.mark.slow
PAGES = Path(__file__).parents[2] / "docs" / "migrate"


def blocks(page: str, language: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def folder(models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """A reader's folder: the rows, and a tiny encoder without dropout."""
    (tmp_path / "encoder").mkdir()
    for file in Path(models["bert"]).iterdir():
        (tmp_path / "encoder" / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "encoder" / "config.json"
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps({**json.loads(config.read_text()), **dropout}))
    for name, count, seed in (("train", 240, 0), ("test", 60, 1)):
        rows = [{"text": row["text"], "label": row["label"]} for row in toys.rows(count, seed=seed)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    different = {row["text"]: row["other"] for row in toys.rows(400) if row["fits"] == "yes"}
    pairs = list({answer: question for question, answer in different.items()}.items())[:32]
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for answer, question in pairs]
    assert len(lines) == 32
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_hft(page: str) -> None:
    """Save the page's recipe under the name that it has there, and run the page's commands."""
    recipe = blocks(page, "yaml")[0]
    Path(recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    for line in "".join(blocks(page, "sh")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "hft"
        assert main(arguments) == 0, line


def said(output: str) -> dict[str, float]:
    """What a script prints: names and numbers."""
    return {name: float(value) for name, value in re.findall(r"^(\w+) ([\d.]+)$", output, re.MULTILINE)}


def scores(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "results.json").read_text())
    return found


def test_trainer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("trainer", "python")[0], {})  # noqa: S102 (the page of this repository)
    theirs = said(capsys.readouterr().out)
    by_hft("trainer")
    assert theirs["accuracy"] == scores("runs/topic")["final"]["test"]["topic"]["accuracy"] == 1.0


def test_peft(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, opening = blocks("peft", "python")
    exec(script, {})  # noqa: S102
    theirs = said(capsys.readouterr().out)
    by_hft("peft")
    results = scores("runs/lora")
    assert theirs["accuracy"] == results["final"]["test"]["topic"]["accuracy"] == 1.0
    assert theirs["lora"] == results["stages"][0]["trainable"] == 3328

    import torch
    from transformers import AutoTokenizer

    names: dict[str, Any] = {}
    exec(opening, names)  # noqa: S102
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    inputs = AutoTokenizer.from_pretrained("encoder")([r["text"] for r in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = names["model"](**inputs).logits.argmax(-1)
    labels = sorted({row["label"] for row in rows})
    assert [labels[int(answer)] for answer in answers] == [row["label"] for row in rows]


def test_sentence_transformers(folder: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the neighbor of this page")
    from sentence_transformers import SentenceTransformer

    script, opening = blocks("sentence-transformers", "python")
    exec(script, {})  # noqa: S102
    by_hft("sentence-transformers")
    names: dict[str, Any] = {}
    exec(opening, names)  # noqa: S102
    texts = [json.loads(line)["question"] for line in (folder / "pairs.jsonl").read_text().splitlines()]
    before, theirs = SentenceTransformer("encoder").encode(texts), SentenceTransformer("sentence-transformers/model")
    ours = names["model"].encode(texts)
    assert np.abs(ours - before).max() > 0.1
    assert np.abs(ours - theirs.encode(texts)).max() < 1e-4
