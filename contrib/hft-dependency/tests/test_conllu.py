"""CoNLL-U files as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from hft_core.errors import DataError
from hft_dependency.conllu import read

TWO = """\
# sent_id = 1
# text = vámonos al mar
1-2\tvámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tvamos\tir\tVERB\t_\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\tCase=Acc\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\t_\t_\t5\tcase\t_\t_
4\tel\tel\tDET\t_\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\t_\t_\t1\tobl:to\t_\t_

# sent_id = 2
1\tSue\tSue\tPROPN\t_\t_\t2\tnsubj\t2:nsubj\t_
2\tlikes\tlike\tVERB\t_\t_\t0\troot\t0:root\t_
2.1\tlikes\tlike\tVERB\t_\t_\t_\t_\t2:conj\t_
3\t10 000\t10000\tNUM\t_\t_\t2\tobj\t2:obj\tSpaceAfter=No
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.conllu"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_row_a_sentence_of_its_syntactic_words(tmp_path: Path) -> None:
    assert read(written(tmp_path, TWO)) == [
        {
            "words": ["vamos", "nos", "a", "el", "mar"],
            "heads": [0, 1, 5, 5, 1],
            "relations": ["root", "obj", "case", "det", "obl:to"],
        },
        {"words": ["Sue", "likes", "10 000"], "heads": [2, 0, 2], "relations": ["nsubj", "root", "obj"]},
    ]


def test_line_ends_a_byte_order_mark_and_empty_lines_do_not_matter(tmp_path: Path) -> None:
    odd = "\ufeff\n\n" + TWO.replace("\n", "\r\n") + "\r\n\r\n"
    assert read(written(tmp_path, odd)) == read(written(tmp_path, TWO))


def test_a_line_separator_inside_a_word_does_not_end_the_line(tmp_path: Path) -> None:
    text = "1\ta\u2028b\t_\t_\t_\t_\t0\troot\t_\t_\n"
    assert read(written(tmp_path, text))[0]["words"] == ["a\u2028b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 a _ _ _ _ 0 root _ _\n", "line 1: found 1 columns, expected 10"),
        ("# x\n1\ta\t_\t_\t_\t_\t0\troot\t_\n", "line 2: found 9 columns"),
        ("1\ta\t_\t_\t_\t_\t_\t_\t_\t_\n", "line 1: found the HEAD '_'"),
        ("1\ta\t_\t_\t_\t_\t-1\troot\t_\t_\n", "line 1: found the HEAD '-1'"),
        ("2\ta\t_\t_\t_\t_\t0\troot\t_\t_\n", "line 1: found the ID '2', expected 1"),
        ("1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n", "line 1: found a sentence without words"),
        ("# only a comment\n", "has no sentence"),
    ],
)
def test_what_is_not_of_the_format_is_an_error_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(written(tmp_path, text))
    assert says in str(error.value)
    assert "some.conllu" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_utf8_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.conllu cannot be read"):
        read(tmp_path / "none.conllu")
    (tmp_path / "latin.conllu").write_bytes(TWO.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.conllu is not UTF-8"):
        read(tmp_path / "latin.conllu")
