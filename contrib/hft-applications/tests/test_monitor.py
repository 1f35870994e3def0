"""`hft monitor` on a run with a tiny model: what it counts, what it tells, and how wrong input ends it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hft_core.cli import main

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Lines = list[dict[str, Any]]


def rows(tweets: Lines, hours: int, *, surge: int = -1) -> Iterable[dict[str, str]]:
    """Eight tweets an hour, each topic half negative, and in one hour 16 negative ones on airlines more."""
    for hour in range(hours):
        more = [row for row in tweets if (row["topic"], row["sentiment"]) == ("airlines", "negative")] * 8
        for i, row in enumerate([*tweets, *(more if hour == surge else [])]):
            yield {"at": (BEGIN + timedelta(hours=hour, minutes=i)).isoformat(), "text": row["text"]}


def written(path: Path, lines: Iterable[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def windows_and_alerts(text: str) -> tuple[Lines, Lines]:
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if "window" in line], [line for line in found if "alert" in line]


def test_it_counts_each_hour_and_tells_the_surge(
    run: Path, tweets: Lines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = written(tmp_path / "stream.jsonl", reversed(list(rows(tweets, 12, surge=9))))
    assert main(["monitor", str(run), "--input", str(stream), "--time", "at"]) == 0
    shown = capsys.readouterr()
    windows, alerts = windows_and_alerts(shown.out)
    assert [window["texts"] for window in windows] == [8] * 9 + [24] + [8] * 2
    assert windows[0] == {
        "window": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-01T01:00:00+00:00",
        "texts": 8,
        "late": 0,
        "counts": {topic: {"negative": 2, "positive": 2} for topic in ("airlines", "phones")},
    }
    (alert,) = alerts
    assert (alert["alert"], alert["topic"]) == ("2026-01-01T09:00:00+00:00", "airlines")
    assert (alert["share_of"], alert["negative"], alert["texts"]) == ("all", 18, 24)
    assert alert["before"] == {"windows": 9, "negative": 18, "texts": 72}
    assert shown.err.startswith("surge at 2026-01-01T09:00:00+00:00: airlines: 18 negative of 24 texts, 18 of 72 in 9 ")


def test_a_folder_of_any_format_and_rows_that_cannot_be_used(run: Path, tweets: Lines, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = list(rows(tweets, 2))
    (folder / "a.csv").write_text("at,text\n" + "".join(f"{row['at']},{row['text']}\n" for row in lines))
    written(
        folder / "b.jsonl", [lines[0], {"at": "noon", "text": "the plane is bad"}, {"at": lines[0]["at"], "text": ""}]
    )
    options = ["--output", str(tmp_path / "out.jsonl"), "--time", "at", "--window", "1d"]
    command = ["monitor", str(run), "--input", str(folder), *options]
    assert main([*command, "--rejects", str(tmp_path / "rejects.jsonl")]) == 0
    ((window,), alerts) = windows_and_alerts((tmp_path / "out.jsonl").read_text())
    assert (window["texts"], alerts) == (17, [])
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert "b.jsonl, line 2: column 'at': expected a time such as 2026-01-31T12:00:00+00:00; found 'noon'" in reasons[0]
    assert "b.jsonl, line 3: has no 'text'." in reasons[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "1.5h"], "--window 1.5h: expected a whole number and a unit"),
        (["--false-alarms", "1"], "--false-alarms 1.0: expected a number between 0 and 1"),
        (["--share-of", "some"], "'some' is not one of 'all', 'topic'"),
        (["--topic", "topics"], "the run has no task 'topics'; see --topic and --sentiment. Did you mean 'topic'?"),
        (["--negative", "negativ"], "'sentiment' has no label 'negativ'. Did you mean 'negative'?"),
        (["--time", "att"], "stream.jsonl, line 1: has no 'att'. Did you mean 'at'?"),
        (["--output", "no/folder/x"], "--output no/folder/x: cannot be written to: No such file or directory"),
        (["--format", "xml"], "--format xml: expected jsonl, csv, txt"),
        (["--input", "none.jsonl"], "--input none.jsonl: expected a file, a folder or '-'"),
    ],
)
def test_a_wrong_request_ends_with_one_line(
    run: Path, tweets: Lines, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    stream = written(tmp_path / "stream.jsonl", rows(tweets, 1))
    assert main(["monitor", str(run), "--input", str(stream), *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input be this text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("format", ["txt", "jsonl", "csv"])
def test_standard_input(
    run: Path, tweets: Lines, format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [row["text"] for row in tweets]
    inputs = {
        "txt": "\n\n".join(texts) + "\n",
        "jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
        "csv": "id,text\n" + "".join(f'1,"{text}"\n' for text in texts),
    }
    given(monkeypatch, inputs[format])
    named = ["--format", "csv"] if format == "csv" else []  # the others are recognized
    assert main(["monitor", str(run), "--window", "9999d", *named]) == 0
    ((window,), alerts) = windows_and_alerts(capsys.readouterr().out)
    assert (window["texts"], alerts) == (8, [])
    assert window["counts"]["phones"] == {"negative": 2, "positive": 2}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ('{"text": "a"}\n["the plane"]\n', (), "standard input, line 2: expected a JSON object; found ['the plane']"),
        ('{"text": "a"}\n{"text"\n', (), "standard input, line 2: expected a JSON object; Expecting ':'"),
        ("text,at\na,b\na\n", ("--format", "csv"), "standard input, line 3: expected 2 cells, as the header has"),
    ],
)
def test_a_line_of_standard_input_that_cannot_be_used_is_named(
    run: Path,
    text: str,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given(monkeypatch, text)
    assert main(["monitor", str(run), *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert json.loads(shown.out)["texts"] == 1, "what was counted until then is written"


@pytest.mark.slow
def test_a_growing_file_is_followed(run: Path, tweets: Lines, tmp_path: Path) -> None:
    lines = list(rows(tweets, 3))
    stream = written(tmp_path / "stream.jsonl", lines[:12])
    options = ["--input", str(stream), "--follow", "--time", "at", "--output", str(tmp_path / "out.jsonl")]
    command = [sys.executable, "-m", "hft_core", "monitor", str(run), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        with stream.open("a") as file:
            for part in ("".join(json.dumps(line) + "\n" for line in lines[12:20]), '{"at": "2026-01-01T05:0', '0", '):
                file.write(part)
                file.flush()
                time.sleep(0.2)
            file.write('"text": "the plane is bad"}\n')
        until = time.monotonic() + 120
        while len((tmp_path / "out.jsonl").read_text().splitlines() if (tmp_path / "out.jsonl").exists() else ()) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        process.kill()
        process.communicate()
    windows, _ = windows_and_alerts((tmp_path / "out.jsonl").read_text())
    assert [(window["window"][11:13], window["texts"]) for window in windows] == [("00", 8), ("01", 8), ("02", 4)]


def test_the_readme_names_options_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").partition("\n## Recommendation")[0]
    (code,) = re.findall(r"^### hft monitor\n+```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"--[a-z-]+", code)) | set(re.findall(r"`(--[a-z-]+)", readme))
    assert len(named) >= 10
    assert main(["monitor", "--help"]) == 0
    assert named <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_listing_plugins_and_the_help_import_no_torch() -> None:
    code = "import sys; from hft_core.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for arguments in (["list-plugins"], ["--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "monitor" in done.stdout
