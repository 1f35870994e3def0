"""Files of any size are predicted a few rows at a time, and an interrupted prediction goes on."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

import hft_core
from hft_core import Catalogue, DataError, UsageError
from hft_core.cli.app import main
from hft_core.data import stream
from hft_core.predict import Batch, SavedRun, predict, predict_file, rows_from_file

TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
}
COUNT, CHUNK = 25, 4


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": TASKS,
        "stages": [{"strategy": {"type": "lora", "r": 2}, "max_steps": 2, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={task: toys.rows(30) for task in TASKS}, output=folder)
    return folder


@pytest.fixture(scope="module")
def saved(run: Path) -> SavedRun:
    return hft_core.open_run(run, Catalogue.discover())


@pytest.fixture
def texts(toys: ModuleType) -> list[str]:
    return [row["text"] for row in toys.rows(COUNT, seed=5)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CHUNK_ROWS", CHUNK)


def jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv", "txt", "json", "parquet", "csv.gz"])
def test_each_format_is_read_in_parts_and_answered_as_at_once(
    format: str, saved: SavedRun, texts: list[str], tmp_path: Path
) -> None:
    frame, path = pd.DataFrame({"text": texts}), tmp_path / f"in.{format}"
    writers: dict[str, Callable[[], Any]] = {
        "jsonl": lambda: jsonl(path, texts),
        "csv": lambda: frame.to_csv(path, index=False),
        "csv.gz": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "txt": lambda: path.write_text("\n\n".join(texts)),
        "json": lambda: path.write_text(json.dumps([{"text": text} for text in texts])),
        "parquet": lambda: frame.to_parquet(path),
    }
    writers[format]()
    done = predict_file(saved, path, tmp_path / "out.jsonl", ["topic"])
    assert (done.read, done.written, done.rejected) == (COUNT, COUNT, 0)
    found = lines(tmp_path / "out.jsonl")
    assert [line["text"] for line in found] == texts
    for line, answer in zip(found, predict(saved, "topic", [{"text": text} for text in texts]), strict=True):
        assert line["label"] == answer["label"]
        assert line["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([path.name, "out.jsonl"])


def test_answers_are_written_as_tables(saved: SavedRun, texts: list[str], tmp_path: Path) -> None:
    path = jsonl(tmp_path / "in.jsonl", texts)
    for name in ("out.csv", "out.parquet", "out.jsonl"):
        predict_file(saved, path, tmp_path / name, ["topic", "score"])
    exact = lines(tmp_path / "out.jsonl")
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == exact
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["topic.label"] for row in rows] == [line["topic"]["label"] for line in exact]
    assert [float(row["score.value"]) for row in rows] == [line["score"]["value"] for line in exact]


def test_odd_texts_are_told_of_once_for_the_whole_file(saved: SavedRun, texts: list[str], tmp_path: Path) -> None:
    odd = {3: "the [SEP] cat", 2 * CHUNK + 1: "a [SEP] dog", COUNT - 1: "a &amp; b"}
    path = jsonl(tmp_path / "in.jsonl", [odd.get(i, text) for i, text in enumerate(texts)])
    told: list[str] = []
    predict_file(saved, path, tmp_path / "out.jsonl", ["topic", "score"], on_note=told.append)
    assert len(told) == 2
    assert told[0].startswith("task 'topic': column 'text' holds '[SEP]' in its text")
    assert told[0].endswith(f"(2 of {COUNT} rows; first: {path}, line 4)")
    assert told[1].endswith(f"(1 of {COUNT} rows; first: {path}, line {COUNT})")


def test_the_commands_tell_of_odd_texts(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"text": "the [SEP] cat", "label": "animals"}\n')
    for call in (["evaluate", str(run), "--data"], ["predict", str(run), "--output", str(tmp_path / "out"), "--input"]):
        assert main([*call, str(path), "--task", "topic"]) == 0
        told = capsys.readouterr().err
        assert "holds '[SEP]' in its text" in told
        assert f"first: {path}, line 1)" in told


def test_an_export_of_an_annotation_tool_has_to_be_given_as_rows(saved: SavedRun, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text('[{"data": {"title": "a"}, "annotations": []}]')
    for call in (
        lambda: predict_file(saved, path, tmp_path / "out", ["topic"]),
        lambda: predict(saved, "topic", rows_from_file(path, "topic")),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert "an annotation tool (label-studio), which is read for training alone" in str(caught.value)
        assert "'format" not in str(caught.value)


def test_an_interrupted_prediction_goes_on_behind_its_whole_rows(
    saved: SavedRun, texts: list[str], tmp_path: Path
) -> None:
    path, whole, again = jsonl(tmp_path / "in.jsonl", texts), tmp_path / "whole.jsonl", tmp_path / "again.jsonl"
    predict_file(saved, path, whole, ["topic"])

    def stop(done: Any, total: int) -> None:
        assert total == COUNT
        if done.read >= 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_file(saved, path, again, ["topic"], on_progress=stop)
    part = tmp_path / "again.jsonl.part"
    assert not again.exists() and len(lines(part)) == 2 * CHUNK
    with part.open("a") as file:
        file.write('{"text": "half a row')
    with pytest.raises(UsageError, match="answers of another task"):
        predict_file(saved, path, again, ["score"])
    other = jsonl(tmp_path / "other.jsonl", texts[1:])
    with pytest.raises(UsageError, match="answers of another input"):
        predict_file(saved, other, again, ["topic"])
    seen: list[int] = []
    predict_file(saved, path, again, ["topic"], on_progress=lambda done, _: seen.append(done.read))
    assert seen[0] == 3 * CHUNK
    assert again.read_bytes() == whole.read_bytes()


def test_shards_are_the_whole_one_behind_another(saved: SavedRun, texts: list[str], tmp_path: Path) -> None:
    path = jsonl(tmp_path / "in.jsonl", texts)
    parts = [tmp_path / f"{i}.jsonl" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        predict_file(saved, path, part, ["topic"], shard=(i, 3))
    assert [len(lines(part)) for part in parts] == [8, 8, 9]
    assert [line["id"] for part in parts for line in lines(part)] == list(range(COUNT))


BAD = {"jsonl": ["{oops", '{"text": ""}', '{"txt": "a"}', "[]"], "csv": ["a,b,c", ",x"]}


@pytest.mark.parametrize("format", BAD)
def test_bad_rows_are_refused_or_written_apart(
    format: str, saved: SavedRun, run: Path, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"in.{format}"
    good = [json.dumps({"text": text}) if format == "jsonl" else f"{text},x" for text in texts]
    header = [] if format == "jsonl" else ["text,note"]
    path.write_text("\n".join([*header, *good[:10], *BAD[format], *good[10:]]) + "\n")
    with pytest.raises(DataError, match=r"(line|row) 11"):
        predict_file(saved, path, tmp_path / "out.jsonl", ["topic"])
    rejects = tmp_path / "rejects.jsonl"
    options = ["--task", "topic", "--input", str(path), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run), *options, "--rejects", str(rejects)]) == 0
    assert f"{len(BAD[format])} of {COUNT + len(BAD[format])} rows cannot be used" in capsys.readouterr().err
    assert [line["text"] for line in lines(tmp_path / "out.jsonl")] == texts
    assert [line["number"] for line in lines(rejects)] == [11 + i for i in range(len(BAD[format]))]
    assert all(f"in.{format}, " in line["reason"] for line in lines(rejects))


def test_a_file_without_the_column_or_without_rows_is_refused(saved: SavedRun, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("txt\na\n")
    with pytest.raises(DataError, match=r"no column 'text'.*Did you mean 'txt'"):
        predict_file(saved, tmp_path / "in.csv", tmp_path / "out", ["topic"], rejects=tmp_path / "rejects")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no data in it"):
        predict_file(saved, tmp_path / "none.jsonl", tmp_path / "out", ["topic"])


@pytest.mark.parametrize("option", [["--shard", "0/2"], ["--shard", "x"], ["--shard", "3/2"]])
def test_a_shard_that_there_is_not_is_refused(
    option: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert main(["predict", str(run), "--task", "topic", *files, *option]) == 2
    assert "expected I/N" in capsys.readouterr().err


def test_a_batch_fits_datasets_map_and_pandas(run: Path, saved: SavedRun, texts: list[str]) -> None:
    expected = predict(saved, "topic", [{"text": text} for text in texts])
    batch = pickle.loads(pickle.dumps(Batch(run, "topic")))  # noqa: S301 (made here)
    mapped = Dataset.from_dict({"text": texts, "label": texts}).map(batch, batched=True, batch_size=10)
    assert mapped["label"][:] == texts
    assert [answer["label"] for answer in mapped["topic"]] == [answer["label"] for answer in expected]
    every = Batch(run)
    frames = list(every.frames([pd.DataFrame({"text": texts[:3]}), pd.DataFrame({"text": []})]))
    assert [list(frame.columns) for frame in frames] == [["text", *TASKS]] * 2
    assert frames[0]["topic"][0]["label"] == expected[0]["label"]
    assert list(every({"text": pd.Series(texts).to_numpy()})) == list(TASKS)
    state = pickle.dumps(every)
    assert len(state) < 2000  # the model is opened where it is used
