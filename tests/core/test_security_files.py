"""Files of strangers: bombs, depth, archives, names that lead elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hft_core import DataError, RecipeError
from hft_core.data import loading
from hft_core.data.readers import gzip_stream, lines
from hft_core.errors import UsageError
from hft_core.recipe import recipe_file
from hft_core.runtime.files import file_hash, read_json
from hft_core.training.checkpoint import Checkpoints

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [id]\n", "tags"),
        ("<<: {a: 1}\n", "merge keys"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 32 levels deep"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
        ("a: " + "9" * 5000, "more than 100 digits"),
    ],
)
def test_yaml_that_would_run_or_explode_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_file.parse(text, "recipe.yaml")


NAMES = ["../x", "/etc/x", "a/b", "a\\b", ".", "..", ".hidden", "", "a\n", "-rf", "x" * 65, "a b", "\x1b[2J", "con:"]


def recipe(**changes: Any) -> dict[str, Any]:
    tasks = {"topic": {"head": "classification", "data": "x.csv"}}
    return {"backbone": {"model": "x"}, "tasks": tasks, "stages": [{"epochs": 1}]} | changes


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_becomes_a_files_name_leads_nowhere(name: str) -> None:
    with pytest.raises(RecipeError):
        recipe_file.from_dict(recipe(tasks={name: {"head": "classification", "data": "x.csv"}}))
    if name:
        with pytest.raises(RecipeError):
            recipe_file.from_dict(recipe(stages=[{"name": name, "epochs": 1}]))


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(gzip_stream.FREE // (1 << 20) + 8):
            file.write(b"0" * (1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match=r"bomb\.jsonl\.gz: unpacks to more than 200 times its size"):
        loading.read([str(path)], None, "line", task="topic")


def test_a_small_file_may_pack_well(tmp_path: Path) -> None:
    path = tmp_path / "same.txt.gz"
    path.write_bytes(gzip.compress(b"the same line\n" * 100_000))
    assert len(loading.read([str(path)], None, "line", task="topic")) == 100_000


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.csv.zip", "a.tgz", "a.csv.xz"])
def test_no_archive_is_a_data_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if "zip" in name:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../../harm.csv", "text\nx\n")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("../../harm.csv"), io.BytesIO())
    with pytest.raises(DataError, match="names no format"):
        loading.read([str(path)], None, "line", task="topic")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("row", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
def test_rows_that_are_too_deep_or_too_long_are_refused(row: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1: "):
        loading.read([str(path)], None, "line", task="topic")


@pytest.mark.parametrize("suffix", ["jsonl", "txt", "csv", "conll"])
def test_a_line_without_an_end_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 1 << 20)
    path = tmp_path / f"rows.{suffix}"
    path.write_text('{"text": 1}\n')
    os.truncate(path, 1 << 40)  # as large as no memory, and takes no room on the disk
    with pytest.raises(DataError, match=rf"rows\.{suffix}, line 2: longer than 1 MiB"):
        loading.read([str(path)], None, "line", task="topic")


def test_a_file_that_is_read_at_once_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FILE_BYTES", 1 << 20)
    path = tmp_path / "rows.json"
    path.write_text("[\n" * (1 << 20))
    with pytest.raises(DataError, match=r"rows\.json: larger than 1 MiB"):
        loading.read([str(path)], None, "line", task="topic")
    os.truncate(path, 1 << 40)
    with pytest.raises(DataError, match=r"rows\.json"):
        loading.read([str(path)], None, "line", task="topic")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, "9" * 5000, "{", "\ufeff{}"])
def test_json_of_a_run_is_plain_or_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"JSON|Expecting|deeply|digits|BOM"):
        read_json(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_a_manifest_names_no_file_outside_of_its_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    place = tmp_path / "checkpoints" / "0000-00000001"
    place.mkdir(parents=True)
    target = place / name
    facts = (
        {"size": target.stat().st_size, "sha256": file_hash(target)} if target.exists() else {"size": 1, "sha256": ""}
    )
    (place / "state.json").write_text("{}")
    (place / "manifest.json").write_text(json.dumps({"format": 1, "recipe": "r", "files": {name: facts}}))
    told: list[str] = []
    with pytest.raises(UsageError, match="no checkpoint in"):
        Checkpoints(tmp_path / "checkpoints", recipe="r", limit=2).newest(told.append)
    assert told
