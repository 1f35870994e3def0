from __future__ import annotations

import os
from pathlib import Path

import pytest

from hft_core.errors import UsageError
from hft_core.runtime import output_probe


def test_what_a_run_will_write_is_tried_and_removed(tmp_path: Path) -> None:
    (tmp_path / f"{output_probe.FOLDER_PREFIX}old").mkdir()
    output_probe.check_path(tmp_path)
    output_probe.check_names(tmp_path, ["topic", "\u60c5\u611f"], ["first", "second"])
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"model/\U0001f600+/model\.safetensors\.index\.json' cannot be written: File name too long"
    ):
        output_probe.check_names(tmp_path, ["\U0001f600" * 64], ["first"])
    with pytest.raises(UsageError, match="File name too long"):
        output_probe.check_names(tmp_path, ["topic"], ["\u60c5" * 80])
    assert list(tmp_path.iterdir()) == []


def test_two_names_that_the_file_system_takes_for_one_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = output_probe._write
    # As on a file system without case:
    monkeypatch.setattr(output_probe, "_write", lambda path, shown: write(Path(str(path).lower()), shown))
    with pytest.raises(UsageError, match="takes for one"):
        output_probe.check_names(tmp_path, ["topic", "Topic"], ["first"])


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        output_probe.check_path(Path(os.fsdecode(b"/tmp/o\xff")))
    for url in ("s3://bucket/run", "https://hf_secret@huggingface.co/x"):
        with pytest.raises(UsageError, match="is a URL, expected a folder") as told:
            output_probe.check_path(Path(url))
        assert "secret" not in str(told.value)
    with pytest.raises(UsageError, match="null character"):
        output_probe.check_path(Path("a\0b"))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written to: No such file"):
        output_probe.check_names(tmp_path / "missing", ["topic"], ["first"])
