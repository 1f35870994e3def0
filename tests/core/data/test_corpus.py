"""Reading a corpus in blocks: the order, going on from any block, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hft_core.data import corpus
from hft_core.data.corpus import BlockStart, Corpus
from hft_core.data.readers.row_by_row import RowReader
from hft_core.errors import DataError
from hft_core.head import Column
from hft_core.recipe.schema import Data

from .conftest import Write

SEED = (0, 1)


def opened(train: str | Sequence[str], buffer: int = 4, text: str = "text", **keys: Any) -> Corpus:
    data = Data.model_validate({"train": train, "stream": True, "shuffle_buffer": buffer, **keys})
    return Corpus.open(data, [Column(text, "text")], task="lm")


def blocks(of: Corpus, count: int, start: BlockStart | None = None, seed: Sequence[int] = SEED) -> list[list[str]]:
    return [block.rows["text"] for block in islice(of.blocks(seed, start or BlockStart()), count)]


@pytest.fixture
def texts(write: Write) -> list[str]:
    """The texts of three files of 5, 1 and 7 rows, with blank lines between them."""
    for name, numbers in (("a.txt", range(5)), ("b.txt", [5]), ("c.txt", range(6, 13))):
        write(name, "\n\n".join(f"text {i}" for i in numbers))
    return [f"text {i}" for i in range(13)]


def test_each_pass_has_every_row_once_in_another_order(texts: list[str]) -> None:
    found = blocks(opened("*.txt"), 8)
    assert [len(block) for block in found] == [4, 4, 4, 1] * 2
    first, second = (list(chain.from_iterable(found[i : i + 4])) for i in (0, 4))
    assert sorted(first) == sorted(second) == sorted(texts)
    assert first != second
    assert first != texts
    assert blocks(opened("*.txt"), 8) == found
    assert blocks(opened("*.txt"), 8, seed=(1, 1)) != found


def test_reading_goes_on_from_any_block(texts: list[str]) -> None:
    of = opened("*.txt")
    starts = [block.start for block in islice(of.blocks(SEED, BlockStart()), 8)]
    assert starts[4] == BlockStart(epoch=1, block=4)
    assert any(start.file and start.after for start in starts), "some block begins inside of a file"
    whole = blocks(of, 8)
    for i, start in enumerate(starts):
        assert blocks(opened("*.txt"), 8 - i, start) == whole[i:]


def test_a_block_ends_where_its_texts_are_many_characters(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "BLOCK_CHARACTERS", 12)
    assert [len(block) for block in blocks(opened("*.txt"), 7)] == [2] * 6 + [1]


def files_of_each_format(folder: Path) -> dict[str, RowReader]:
    rows = [{"id": i, "text": f"one, {i}\nand more" if i % 2 else f"text {i}"} for i in range(6)]
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "a.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    cells = "text,id\n" + "".join(f'"{row["text"]}",{row["id"]}\n' for row in rows)
    (folder / "a.csv").write_text(cells)
    (folder / "a.tsv").write_text(cells.replace(",", "\t").replace("one\t", "one,"))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=4)
    paths = {path.name: RowReader(str(path), path.name.split(".")[1]) for path in folder.iterdir()}
    return dict(sorted(paths.items()))


def test_every_format_is_read_from_any_row_on(tmp_path: Path) -> None:
    for reader in files_of_each_format(tmp_path).values():
        whole = list(reader.records(["text"]))
        assert [number for number, _ in whole] == [1, 2, 3, 4, 5, 6]
        assert [record["text"] for _, record in whole if isinstance(record, dict)][4] == "text 4"
        for after in range(7):
            assert list(reader.records(["text"], after)) == whole[after:], (reader, after)


def test_a_dotted_name_reads_a_field_of_objects(write: Write) -> None:
    write("a.jsonl", '{"page": {"body": "one"}}\n{"page": {"body": "two"}}\n')
    of = opened("a.jsonl", text="page.body")
    assert of.sample()["page.body"] == ["one", "two"]


def test_a_file_may_be_a_row(write: Write) -> None:
    write("a.txt", "one\ntwo\n")
    write("b.txt", "three\n")
    assert sorted(blocks(opened("*.txt", row="file"), 1)[0]) == ["one\ntwo\n", "three\n"]


@pytest.mark.parametrize(
    ("files", "train", "message"),
    [
        ({"a.txt": " \n\n"}, "a.txt", "a.txt: no data in it, expected at least one line"),
        ({"a.csv": "text\n"}, "a.csv", "a.csv: no data in it, expected at least one row"),
        ({"a.jsonl": '{"body": "x"}'}, "a.jsonl", "task 'lm' (train): a.jsonl has no column 'text'"),
        ({"a.json": '[{"text": "x"}]'}, "a.json", "a.json has the format 'json', which is read at once; expected one"),
        ({"a/b.txt": "x"}, "a", "task 'lm': a is a folder: name the files in it, for instance 'a/*'"),
        ({"a.txt": b"good\n\xff\n"}, "a.txt", "a.txt, line 2: not UTF-8"),
        ({"a.jsonl": '{"text": "x"}\n{"text": 3}'}, "a.jsonl", "task 'lm' (train): a.jsonl, line 2: column 'text'"),
        ({"a.jsonl": '{"text": "x"}\n{"text": }'}, "a.jsonl", "a.jsonl, line 2: not valid JSON"),
    ],
)
def test_what_cannot_stream_is_named(write: Write, files: dict[str, Any], train: str, message: str) -> None:
    for name, content in files.items():
        write(name, content)
    with pytest.raises(DataError) as error:
        opened(train).sample()
    assert message in str(error.value)


def test_rows_behind_the_first_ones_are_checked_when_they_are_read(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "SAMPLE_ROWS", 3)
    write("a.csv", "text\n" + "x\n" * 9 + '""\n')
    of = opened("a.csv")
    assert len(of.sample()) == 3
    assert len(blocks(of, 2)) == 2
    with pytest.raises(DataError, match=r"task 'lm' \(train\): a.csv, row 10: column 'text': found '', expected"):
        blocks(of, 3)


def test_a_file_that_is_gone_or_changed_is_named(texts: list[str]) -> None:
    of = opened("*.txt")
    reading = of.blocks(SEED, BlockStart())
    next(reading)
    with Path("a.txt").open("a") as file:
        file.write("\none more\n")
    with pytest.raises(DataError, match=r"a.txt: changed since the run opened it; expected the files of a stream"):
        list(islice(reading, 8))
    assert opened("*.txt").digest != of.digest
    of = opened("*.txt")
    os.unlink("c.txt")
    with pytest.raises(DataError, match=r"c.txt: cannot be read any more \(No such file"):
        blocks(of, 5)


def test_the_digest_is_of_the_content(texts: list[str]) -> None:
    digest = opened("*.txt").digest
    os.utime("a.txt")
    assert opened("*.txt").digest == digest
    Path("a.txt").write_text(Path("a.txt").read_text().replace("text 3", "text 8"))
    assert opened("*.txt").digest != digest
