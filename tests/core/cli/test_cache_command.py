from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hft_core.cli import main
from hft_core.runtime import cache
from hft_core.runtime.cache import Cache


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with three entries, the first of which was used longest ago, beside what is not hft's."""
    root = tmp_path / "hft"
    monkeypatch.setenv(cache.PLACE, str(root))
    for i, kind in enumerate((cache.TOKENS, cache.ACTIVATIONS, cache.TOKENS)):
        made = Cache(kind)
        with made.filling(f"k{i}") as folder:
            assert folder is not None
            (folder / "a").write_bytes(b"x" * 2000)
            made.publish(folder, f"k{i}", rows=1)
        os.utime(root / kind / f"k{i}" / cache.MANIFEST, (i, i))
    (root / "mine").mkdir()
    (root / "mine" / "notes.txt").write_text("mine")
    return root


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert main(["cache", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_size_says_how_much_of_what_is_kept(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "size")
    assert told["kinds"]["tokens"]["entries"] == 2
    assert told["bytes"] == sum(part["bytes"] for part in told["kinds"].values()) > 6000
    assert told["limit"] == cache.DEFAULT_LIMIT
    assert main(["cache", "size"]) == 0
    assert str(filled) in capsys.readouterr().out


def test_check_names_each_damaged_entry(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "check")["damaged"] == {}
    (filled / "tokens" / "k2" / "a").write_bytes(b"y" * 2000)
    assert list(said(capsys, "check", code=1)["damaged"]) == [str(filled / "tokens" / "k2")]
    assert main(["cache", "check"]) == 1
    shown = capsys.readouterr()
    assert "k2: the file a is not as it was written" in shown.out
    assert shown.err == "error: 1 of 3 entries are damaged; a run that needs one makes it anew\n"


def test_clear_removes_the_least_recently_used_first(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    removed = said(capsys, "clear", "--limit", "4500")["removed"]
    assert [Path(entry["path"]).name for entry in removed] == ["k0"]
    said(capsys, "clear")
    assert cache.entries(filled) == []
    assert (filled / "mine" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "check", "--limit", "1GB"], "--limit is for 'hft cache clear'"),
        (["cache", "clear", "--limit", "much"], "--limit: 'much' is not a size"),
        (["cache", "shrink"], "hft cache: invalid value for '(action|ACTION.*)': 'shrink' is not one of"),
        (["run", "--cache-size", "much", "x.yaml"], "--cache-size: 'much' is not a size"),
    ],
)
def test_a_wrong_request_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert re.match(f"error: {message}", capsys.readouterr().err)
