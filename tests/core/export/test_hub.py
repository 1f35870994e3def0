"""`hft push` sends model and card, exactly what `--dry-run` lists, and nothing of the data."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import hft_core
from hft_core import cli
from hft_core.export import hub

TEXT = "the auditor described the bank once"


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose adapters belong on a trunk of its own, beside its data."""
    folder = tmp_path_factory.mktemp("push") / "run"
    rows = [{**row, "text": f"{row['text']} {TEXT}"} for row in toys.rows(40)]
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {"max_steps": 1, "train_batch_size": 4}
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": {"head": "classification", "data": str(folder / "data" / "rows.jsonl"), "label": "label"}},
        "stages": [{"name": "one", "strategy": "full", **stage}, {"name": "two", "strategy": "lora", **stage}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=folder)
    return folder


class Hub:
    """Takes what the hub would be sent."""

    sent: dict[str, Any] = {}  # noqa: RUF012

    def create_repo(self, repository: str, **facts: Any) -> None:
        self.sent["repo"] = (repository, facts)

    def create_commit(self, repository: str, operations: list[Any], **facts: Any) -> Any:
        self.sent["files"] = {each.path_in_repo: each.path_or_fileobj for each in operations}
        return SimpleNamespace(pr_url=None, commit_url=f"https://hub.example/{repository}/commit/1")


def content(value: Any) -> bytes:
    return value if isinstance(value, bytes) else Path(value).read_bytes()


def test_what_is_sent_is_what_was_listed_and_holds_no_data(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "HfApi", None)  # a dry run has no use for it
    assert cli.main(["push", str(run), "--repo", "me/news", "--dry-run", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "sent", {})
    assert cli.main(["push", str(run), "--repo", "me/news"]) == 0
    assert "hub.example/me/news/commit/1" in capsys.readouterr().out
    assert Hub.sent["repo"] == ("me/news", {"private": True, "exist_ok": True})
    assert sorted(Hub.sent["files"]) == sorted(listed["files"])
    assert {"README.md", "model/topic/adapter_model.safetensors", "model/trunk/model.safetensors"} <= set(
        listed["files"]
    )
    assert {"data", "log.jsonl", "predictions", "recipe.yaml", "results.json"} <= set(listed["left_out"])
    sent = b"".join(map(content, Hub.sent["files"].values()))
    assert TEXT.encode() not in sent
    assert str(run.parent).encode() not in sent
    adapter = json.loads(content(Hub.sent["files"]["model/topic/adapter_config.json"]))
    assert adapter["base_model_name_or_path"] == "me/news"


@pytest.mark.parametrize(
    ("repository", "spoil", "code", "message"),
    [
        ("news", "", 2, "expected OWNER/NAME"),
        ("me/../x", "", 2, "--repo me/../x"),
        ("me/news", "results.json", 2, "not a finished run"),
        ("me/news", "README.md", 2, "README.md"),
    ],
)
def test_what_cannot_be_published_is_refused_in_one_line(
    repository: str, spoil: str, code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (run / spoil).read_bytes() if spoil else b""
    if spoil:
        (run / spoil).unlink()
    try:
        assert cli.main(["push", str(run), "--repo", repository, "--dry-run"]) == code
    finally:
        if spoil:
            (run / spoil).write_bytes(kept)
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
