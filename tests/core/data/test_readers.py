from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from hft_core.data.loading import Rows, read
from hft_core.data.readers import FORMATS, read_file
from hft_core.data.readers.records import CHUNK
from hft_core.errors import DataError
from hft_core.head import Column
from hft_core.recipe.schema import Data

TEXT = Column("text", "text")
LABEL = Column("label", "label", target=True)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

Write = Callable[[str, str | bytes], str]


def read_one(path: str, format: str | None = None, row: Literal["line", "file"] = "line") -> Rows:
    return read([path], format, row, task="topic")


def values(rows: Rows) -> dict[str, list[Any]]:
    return {name: rows[name] for name in rows.columns}


def test_csv_cells_stay_as_written(write: Write) -> None:
    rows = read_one(write("news.csv", 'text,label\nNA,001\n1e5,\n" a, ""b""\r\nc ",true\n'))
    assert values(rows) == {"text": ["NA", "1e5", ' a, "b"\r\nc '], "label": ["001", "", "true"]}


@given(cells=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=8), tab=st.booleans())
@FUZZ
def test_any_text_survives_in_csv_and_tsv(tmp_path: Path, cells: list[tuple[str, str]], tab: bool) -> None:
    assume(not any("\n" in cell and "\t" in cell for cell in chain(*cells)))  # rows of a tsv file, maybe
    path = tmp_path / ("x.tsv" if tab else "x.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, "excel-tab" if tab else "excel", quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *cells])
    rows = read_one(str(path))
    assert list(zip(rows["a"], rows["b"], strict=True)) == cells


def test_a_cell_may_be_longer_than_the_csv_modules_limit(write: Write) -> None:
    assert read_one(write("a.csv", f"text\n{'long ' * 60_000}\n"))["text"] == ["long " * 60_000]


def test_json_values_keep_their_types(write: Write) -> None:
    records = [{"id": 1, "ok": True, "x": 1.5, "text": "a"}, {"id": 2, "ok": False, "x": 2.5, "text": "1"}]
    assert values(read_one(write("a.json", json.dumps(records)))) == {k: [r[k] for r in records] for k in records[0]}


def test_a_column_of_mixed_types_keeps_each_value(write: Write) -> None:
    mixed = [1, "1", 1.0, True, None, [1, {"a": "b"}], "null", 2**70]
    rows = read_one(write("a.jsonl", "\n".join(json.dumps({"x": value}) for value in mixed)))
    assert rows["x"] == mixed
    assert [type(value) for value in rows["x"]] == [type(value) for value in mixed]
    assert rows.select([5, 1])["x"] == [[1, {"a": "b"}], "1"]


def test_a_key_that_some_objects_lack_is_none_there(write: Write) -> None:
    rows = read_one(write("a.jsonl", '{"x": 1}\n{"y": "b", "x": 2}\n'))
    assert values(rows) == {"x": [1, 2], "y": [None, "b"]}


def test_a_type_that_changes_late_in_a_file_keeps_each_value(write: Write) -> None:
    records = [{"x": i} for i in range(CHUNK)] + [{"x": "late", "y": 1}]
    rows = read_one(write("a.jsonl", "\n".join(map(json.dumps, records))))
    assert rows["x"] == [*range(CHUNK), "late"]
    assert rows["y"] == [None] * CHUNK + [1]
    assert rows.where(CHUNK) == f"a.jsonl, line {CHUNK + 1}"


def test_txt_gives_a_row_a_line_without_blank_lines(write: Write) -> None:
    rows = read_one(write("a.txt", "\ufefffirst \r\n\n  \n second\u2028half\n"))
    assert rows["text"] == ["first ", " second\u2028half"]
    assert [rows.where(0), rows.where(1)] == ["a.txt, line 1", "a.txt, line 4"]


def test_txt_gives_a_row_a_file(write: Write) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        write(name, f"{name}\n\nend\n")
    rows = read(["*.txt"], None, "file", task="language")
    assert rows["text"] == ["a.txt\n\nend\n", "b.txt\n\nend\n"]
    assert rows.where(1) == "b.txt"


def test_a_folder_gives_a_class_a_subfolder(write: Write) -> None:
    for name in ("sport/2.txt", "sport/10.txt", "art/1.txt", "art/.hidden", ".git/x"):
        write(f"news/{name}", name)
    rows = read_one("news")
    assert values(rows) == {"text": ["art/1.txt", "sport/10.txt", "sport/2.txt"], "label": ["art", "sport", "sport"]}
    assert rows.where(1) == "news/sport/10.txt"


def test_parquet_gives_categories_and_class_labels_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])})
    frame.to_parquet(tmp_path / "pandas.parquet")
    named = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])})
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, named).to_parquet(tmp_path / "hf.parquet")
    both = read(["pandas.parquet", "hf.parquet"], None, "line", task="topic")
    assert both["label"] == ["x", "y", "x", "y"]
    assert both.where(3) == "hf.parquet, row 2"


def test_gzipped_files_are_read(write: Write) -> None:
    assert read_one(write("a.csv.gz", gzip.compress(b"text\nhello\n", mtime=0)))["text"] == ["hello"]


def test_several_files_are_one_and_each_row_knows_its_file(write: Write) -> None:
    write("part-2.csv", "label,text\nx,c\n")
    write("part-1.csv", "text,label\na,x\n\nb,y\n")
    write("more.jsonl", '\n{"text": "d", "label": 3}')
    rows = read(["part-*.csv", "more.jsonl", "part-1.csv"], None, "line", task="topic")
    assert values(rows) == {"text": ["a", "b", "c", "d"], "label": ["x", "y", "x", 3]}
    places = ["part-1.csv, row 1", "part-1.csv, row 2", "part-2.csv, row 1", "more.jsonl, line 2"]
    assert [rows.where(i) for i in range(4)] == places
    chosen = rows.select([3, 0])
    assert chosen["text"] == ["d", "a"]
    assert chosen.where(0) == "more.jsonl, line 2"


def test_a_format_may_be_named_and_a_name_may_hold_brackets(write: Write) -> None:
    assert read_one(write("data[1].dat", "text\na\n"), "csv")["text"] == ["a"]


def test_a_changed_file_gives_its_new_rows(write: Write) -> None:
    assert read_one(write("a.csv", "text\nold\n"))["text"] == ["old"]
    assert read_one(write("a.csv", "text\nnew\n"))["text"] == ["new"]


def test_reading_writes_nothing_to_the_cache_and_shows_nothing(
    write: Write, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = read_one(write("a.csv", "text\n" + "hello\n" * (2 * CHUNK)))
    rows.select(range(0, len(rows), 2))["text"]
    assert not (tmp_path / "cache").exists()
    assert capfd.readouterr() == ("", "")


UTF16 = "text,label\na,x\n".encode("utf-16")
LATIN1 = "text,label\nok,x\nGrüße,y\n".encode("latin-1")
DEEP = "[" * 100_000
BAD_FILES: list[tuple[str, str | bytes, list[str]]] = [
    ("a.csv", "", ["a.csv: the file is empty", "header"]),
    ("a.csv", "\n\n", ["a.csv: the file is empty", "header"]),
    ("a.csv", "text,label\n", ["a.csv: no data in it", "at least one row"]),
    ("a.csv", "text,label\na,x\nb\n", ["a.csv, row 2 (line 3): found 1 cells, expected 2"]),
    ("a.csv", "text,label\na,x\n\nb,y,z\n", ["a.csv, row 2 (line 4): found 3 cells, expected 2"]),
    ("a.csv", "text,text\na,b\n", ["a.csv: the header names the column 'text' twice"]),
    ("a.csv", 'text,label\na,x\n"b,y\nc,z\n', ["a.csv, row 2 (line 3)", "a double quote is opened and never closed"]),
    ("a.csv", 'text,label\n"b" c,y\n', ["a.csv, row 1 (line 2): not well-formed csv", "expected after"]),
    ("a.csv", "text,label\ra,x\r", ["a.csv, the header (line 1): not well-formed csv", "new-line character"]),
    ("a.csv", '"te\nxt",label\na,x\n', ["a.csv: the column name 'te\\nxt' contains a line break"]),
    ("a.csv", UTF16, ["a.csv, line 1: not UTF-8 (byte 0xff at position 1)", "UTF-16"]),
    ("a.csv", LATIN1, ["a.csv, line 3: not UTF-8 (byte 0xfc at position 3)", "iconv"]),
    ("a.csv.gz", b"text\nhello\n", ["a.csv.gz: cannot be read", "gzip"]),
    ("a.csv.gz", gzip.compress(b"text\nhello\n", mtime=0)[:-9], ["a.csv.gz: cannot be read"]),
    ("a.tsv", "text\tlabel\nonly one\n", ["a.tsv, row 1 (line 2): found 1 cells, expected 2"]),
    ("a.tsv", 'text\tlabel\n"Hello," he said.\tx\n', ["a.tsv, row 1 (line 2): not well-formed tsv", "double quote"]),
    ("a.json", "", ["a.json: the file is empty", "a list of objects"]),
    ("a.json", "[]", ["a.json: no data in it"]),
    ("a.json", '{"text": "a"}', ["a.json: expected a list of objects, found an object"]),
    ("a.json", '{"text": "a"}\n{"text": "b"}\n', ["a.json: not valid JSON", "line 2", "jsonl"]),
    ("a.json", '[{"text": "a"},\n "b"]', ["a.json, row 2: expected an object", "found a text"]),
    ("a.json", '[{"text": "a"},\n{"text": }]', ["a.json: not valid JSON: Expecting value (line 2, column 10)"]),
    ("a.json", '{"data": [{"text": "a"}]}', ["a.json, article 1 of 'data': expected SQuAD's form", "'paragraphs'"]),
    ("a.json", DEEP, ["a.json: JSON that cannot be read"]),
    ("a.json", '[{"\\u0000": 1, "": 2}]', ["a.json: the column name '\\x00' contains", "control character"]),
    ("a.jsonl", '{"\\ud800": 1}', ["a.jsonl"]),
    ("a.jsonl", "\n", ["a.jsonl: no data in it", "at least one line"]),
    ("a.jsonl", '{"text": "a"}\n{"text": "b"\n', ["a.jsonl, line 2: not valid JSON", "column 13"]),
    ("a.jsonl", '{"text": "a"}\n\n["b"]\n', ["a.jsonl, line 3: expected an object", "found a list"]),
    ("a.jsonl", '{"text": "a"}\n{}\n', ["a.jsonl, line 2", "found an object without keys"]),
    ("a.jsonl", '{"text": ' + "9" * 5000 + "}", ["a.jsonl, line 1: JSON that cannot be read", "digits"]),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', ["a.jsonl, line 2: not UTF-8"]),
    ("a.parquet", "text,label\n", ["a.parquet: cannot be read as parquet"]),
    ("a.parquet", "", ["a.parquet: cannot be read as parquet"]),
    ("a.txt", " \n\n", ["a.txt: no data in it", "at least one line"]),
    ("a.txt", b"ok\nbad \x80\n", ["a.txt, line 2: not UTF-8 (byte 0x80 at position 5)"]),
    ("a.docx", "x", ["a.docx has the suffix '.docx'", ".csv, .tsv, .json"]),
    ("README", "x", ["README has the suffix ''", "format"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), BAD_FILES)
def test_a_bad_file_gives_one_line_that_says_where_and_why(
    write: Write, name: str, content: str | bytes, parts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read_one(write(name, content))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("files", "paths", "message"),
    [
        (["news.csv"], ["new.csv"], "there is no file 'new.csv'. Did you mean 'news.csv'?"),
        (["news.csv"], ["*.jsonl"], "task 'topic': no file matches '*.jsonl'"),
        (["news/a.txt"], ["news"], "news/a.txt: is directly in the folder"),
        (["news/art/deep/a.txt"], ["news"], "news/art: a folder in it ('deep')"),
        (["news/art/.hidden"], ["news"], "news/art: no file in it"),
        (["news/.hidden"], ["news"], "news: empty, expected one subfolder"),
    ],
)
def test_bad_paths_and_folders_are_named(write: Write, files: list[str], paths: list[str], message: str) -> None:
    for name in files:
        write(name, "text\na\n")
    with pytest.raises(DataError) as caught:
        read(paths, None, "line", task="topic")
    assert message in str(caught.value)


def test_a_folder_is_not_a_file_and_a_file_is_not_a_folder(write: Write) -> None:
    write("news/a.csv", "text\na\n")
    with pytest.raises(DataError, match=r"news is a folder: name the files in it, for instance 'news/\*.csv'"):
        read_one("news", "csv")
    with pytest.raises(DataError, match=r"news/a\.csv: expected a folder"):
        read_one("news/a.csv", "folder")


def test_files_with_other_columns_are_both_named(write: Write) -> None:
    paths = [write("a.csv", "text,label\na,x\n"), write("b.csv", "text,topic\nb,y\n")]
    with pytest.raises(DataError, match=r"a\.csv and b\.csv differ in the columns 'label', 'topic'"):
        read(paths, None, "line", task="topic")


def test_conll_gives_a_sentence_a_row(write: Write) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects  VBZ B-VP O\r\n\n\n"
        "# NN B-NP O\n3 CD I-NP O\n-docstart- -X- -X- O\nend NN B-NP O"
    )
    rows = read_one(write("train.conll", text))
    assert values(rows) == {
        "words": [["EU", "rejects"], ["#", "3"], ["end"]],
        "column_2": [["NNP", "VBZ"], ["NN", "CD"], ["NN"]],
        "column_3": [["B-NP", "B-VP"], ["B-NP", "I-NP"], ["B-NP"]],
        "column_4": [["B-ORG", "O"], ["O", "O"], ["O"]],
        "tags": [["B-ORG", "O"], ["O", "O"], ["O"]],
    }
    assert [rows.where(i) for i in range(3)] == ["train.conll, line 3", "train.conll, line 7", "train.conll, line 10"]


@pytest.mark.parametrize(
    ("text", "words", "tags"),
    [
        ("a\tO\n\u00a0 b\tB-x\n", ["a", "\u00a0 b"], ["O", "B-x"]),
        ("# id 7\tdomain=en\na _ _ O\n# _ _ O\n", ["a", "#"], ["O", "O"]),
        ("# sent_id = 1\n# text = a #\na\tO\n#\tB-x\n\n# newdoc\n\n", ["a", "#"], ["O", "B-x"]),
        ("\ufeffa\u3000b O\n", ["a\u3000b"], ["O"]),
        ("# O\na B-x\n", ["#", "a"], ["O", "B-x"]),
    ],
)
def test_conll_comments_are_told_from_tokens_and_only_tabs_and_blanks_divide(
    write: Write, text: str, words: list[str], tags: list[str]
) -> None:
    rows = read_one(write("a.bio", text))
    assert rows["words"] == [words]
    assert rows["tags"] == [tags]


def test_conll_of_one_column_has_words_alone(write: Write) -> None:
    assert values(read_one(write("a.iob", "a\nb\n\nc\n"))) == {"words": [["a", "b"], ["c"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a O\n\nb O\nc\n", "a.conll, line 4: found 1 columns, expected 2 as in line 1"),
        ("a\tO\nb\tX\tO\n", "a.conll, line 2: found 3 columns, expected 2 as in line 1"),
        ("a O\n# not a token\n", "a.conll, line 2: found 4 columns"),
        ("\n\n", "a.conll: no data in it, expected at least one line"),
        ("-DOCSTART- O\n", "no data in it"),
        (b"a O\n\xfc O\n", "a.conll, line 2: not UTF-8"),
    ],
)
def test_a_bad_conll_file_is_refused_with_its_line(write: Write, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_one(write("a.conll", text))
    assert message in str(caught.value)


def test_the_recipe_accepts_every_format_and_no_other() -> None:
    (literal, _) = get_args(Data.model_fields["format"].annotation)
    assert set(get_args(literal)) == set(FORMATS)


SWALLOWED = {
    "text first": ["text,label", "a,sport", '"It began,sport', "b,money", "c,sport", 'the end",money', "d,money"],
    "two rows only": ["text,label", "a,sport", '"It began,sport', 'the end",money', "d,money", "e,sport"],
    "label first": ["label,text", "sport,a", 'sport,"It began', "money,b", 'money,the end"', "sport,d", "money,e"],
    "numbers": ["text,score", "a,0.1", '"It began,0.25', "b,0.75", 'the end",0.5', "d,0.9"],
    "texts": ["one,two", "a,b", '"It began,c', "d,e", "f,g", 'the end",h', "i,j"],
}


@pytest.mark.parametrize("lines", SWALLOWED.values(), ids=SWALLOWED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", "\t"])
def test_rows_between_two_stray_quotes_are_not_one_cell(write: Write, lines: list[str], end: str, mark: str) -> None:
    name = write("rows.csv" if mark == "," else "rows.tsv", end.join(lines).replace(",", mark) + end)
    message = (
        r"^rows\.[ct]sv, row 2 \(line 3\): cell [12] is in quotes and holds \d lines with the cells of further rows"
    )
    with pytest.raises(DataError, match=message):
        read_one(name)


@pytest.mark.parametrize(
    "cell",
    [
        "one line, and\nanother, sport",
        "Roses are red,\nviolets are blue,\nand so, are you,\nor not",
        "Springfield, IL\nPortland, OR\nSalem, OR\nDover, DE\nTroy",
        "It was 1,000\nor 2,000\nor more",
        "a,sport",
        "a\nb",
        "name,age\nAnn,7\nBob,8",
    ],
)
def test_a_text_of_several_lines_with_commas_is_a_text(write: Write, cell: str) -> None:
    rows = read_one(write("rows.csv", f'text,label\na,sport\n"{cell}",money\nb,sport\nc,money\n'))
    assert rows["text"] == ["a", cell, "b", "c"]


@pytest.mark.parametrize("header", ["text,label", " text , label", "\ufefftext,label"])
def test_a_header_among_the_rows_is_refused(write: Write, header: str) -> None:
    with pytest.raises(DataError, match=r"^rows\.csv, row 2 \(line 3\): repeats the header, expected a row below it"):
        read_one(write("rows.csv", f"text,label\na,sport\n{header}\nb,money\n"))
    assert read_one(write("words.csv", "text\na\ntext\n"))["text"] == ["a", "text"]


UD = """\
# text = I'm there
1-2\tI'm\t_\t_\t_
1\tI\tI\tPRON\t2
2\t'm\tbe\tAUX\t0
2.1\tgone\tgo\tVERB\t_
3\tthere\tthere\tADV\t2

1\tyes\tyes\tINTJ\t0
"""


def test_multiword_tokens_and_empty_nodes_of_conll_u_are_no_words(write: Write) -> None:
    rows = read_one(write("ud.conll", UD))
    assert rows["column_2"] == [["I", "'m", "there"], ["yes"]]
    assert rows["column_4"] == [["PRON", "AUX", "ADV"], ["INTJ"]]
    assert rows.where(0) == "ud.conll, line 2"


def test_words_that_look_like_such_numbers_stay(write: Write) -> None:
    rows = read_one(write("scores.conll", "1-2 CD O\nwon CD O\n\n3.5 CD O\n1 CD O\n"))
    assert rows["words"] == [["1-2", "won"], ["3.5", "1"]]


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_without_quoting_a_quote_is_text(name: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / name
    cells = [("text", "label"), ('"Hello', "x"), ('he said"', "y"), ('"a"', "z")]
    path.write_text("".join(f"{text}{mark}{label}\n" for text, label in cells))
    rows = read_file(str(path), name[2:], "line", "none")
    assert (list(rows["text"]), list(rows["label"])) == (['"Hello', 'he said"', '"a"'], ["x", "y", "z"])
    with pytest.raises(DataError, match="quoting: none is for csv and tsv files"):
        read_file(str(path), "jsonl", "line", "none")
