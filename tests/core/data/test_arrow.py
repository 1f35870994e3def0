from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hft_core.data import arrow, loading, rows
from hft_core.data.readers import records


def written(path: Path, count: int) -> list[dict[str, Any]]:
    made = [{"text": f"text number {i} " + "x" * 100, "label": "abc"[i % 3], "n": i} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return made


def test_rows_of_a_large_file_are_on_disk_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = written(tmp_path / "a.jsonl", 4000)
    monkeypatch.setattr(records, "CHUNK", 300)
    monkeypatch.setattr(records, "PART_BYTES", 100_000)
    before = pa.total_allocated_bytes()
    found = loading.read([str(tmp_path / "a.jsonl")], None, "line", task="t")
    assert pa.total_allocated_bytes() - before < 150_000
    for name in ("text", "label", "n"):
        assert found[name] == [row[name] for row in made]
    assert found.where(3999).endswith("a.jsonl, line 4000")
    assert found.select([3999, 5])["n"] == [3999, 5]


def test_equal_labels_are_one_text_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "a.jsonl", 100)
    monkeypatch.setattr(rows, "CHECK_BATCH", 7)
    labels = loading.read([str(tmp_path / "a.jsonl")], None, "line", task="t")["label"]
    assert len({id(label) for label in labels}) == 3


def test_a_table_stays_in_memory_where_no_file_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrow.tempfile, "TemporaryFile", full)
    table = pa.table({"a": [1, 2]})
    assert arrow.move_to_disk(table) is table
