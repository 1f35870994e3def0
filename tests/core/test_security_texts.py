"""Text of strangers in what is shown and kept; no output is a table that a spreadsheet would compute."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hft_core.cli.progress import Lines
from hft_core.cli.terminal import print_table, sanitized_logs
from hft_core.errors import HftError, did_you_mean
from hft_core.head import Decision
from hft_core.runs import usage_lines
from hft_core.sanitize import holds_password, json_text, plain, without_controls, without_passwords

ROOT = Path(__file__).parents[2]
FORBIDDEN = (
    *("import tarfile", "import zipfile", "import pickle", "import shelve", "from csv", "unpack_archive", "extractall"),
    *(r"csv\.writer", r"csv\.DictWriter", "to_csv", "to_excel", "to_markdown", "to_html"),
)
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@given(st.text())
def test_shown_text_is_one_line_that_no_terminal_obeys(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.lists(st.text())))
def test_json_has_its_value_and_nothing_that_a_terminal_obeys(value: dict[str, object]) -> None:
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert not OBEYED.search(text)


def test_numbers_in_json_stay_numbers() -> None:
    assert json_text({"a": -1.5, "=b": 2}) == '{"a": -1.5, "=b": 2}'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://joe:secret@host/a and http://x.org", "https://***@host/a and http://x.org"),
        ("s3://key:se%63ret@bucket", "s3://***@bucket"),
        ("http://:secret@host", "http://***@host"),
        ("https://hf_token@huggingface.co/x", "https://***@huggingface.co/x"),
        ("https://user:p@ss@host/x", "https://***@host/x"),
        ("https://user:pa/ss@host", "https://***@host"),
        ("https://user:12/34@host", "https://***@host"),
        ("https:/token@host/x", "https:/***@host/x"),  # as a path joins the slashes
        ("/work/https:/user:secret@host/x", "/work/https:/***@host/x"),
        ("https%3A%2F%2Fuser%3Asecret%40host/x", "https%3A%2F%2F***%40host/x"),
        ("//user:secret@host", "//***@host"),
        ("git+https://token@github.com/x", "git+https://***@github.com/x"),
        ("https://host/x?token=secret", "https://host/x?token=***"),
        ("https://host/x?a=1&access_token=secret&b=2", "https://host/x?a=1&access_token=***&b=2"),
        ("https://host/x?X-Amz-Signature=se%2Fcret", "https://host/x?X-Amz-Signature=***"),
        ("https://host/#access_token=secret", "https://host/#access_token=***"),
        ("401 for hf_" + "a1B2" * 9, "401 for ***"),
        ("https://host/x?max_tokens=5&tokenizer=bert", "https://host/x?max_tokens=5&tokenizer=bert"),
        ("hf://datasets/a/b@main/x.csv", "hf://datasets/a/b@main/x.csv"),
        ("git@github.com:a/b, file://C:/x", "git@github.com:a/b, file://C:/x"),
        ("hf_my_model_of_last_week_with_a_long_name", "hf_my_model_of_last_week_with_a_long_name"),
        ("a: b@c, https://host:80/@x", "a: b@c, https://host:80/@x"),
    ],
)
def test_passwords_in_urls_are_left_out(text: str, shown: str) -> None:
    assert without_passwords(text) == plain(text) == str(HftError(text)) == shown
    assert without_passwords(shown) == shown
    assert holds_password(text) == (text != shown)


def test_an_overlong_name_is_cut_in_an_error() -> None:
    told = str(HftError(f"there is no key '{'x' * 200_000}'. {did_you_mean('x' * 200_000, ['name'])}"))
    assert len(told) < 5000
    assert told.startswith("there is no key 'xxx")
    assert len(str(HftError("word " * 100_000))) < 10_000
    assert len(did_you_mean("name", map(str, range(20_000)))) < 1000


@given(st.text())
def test_a_text_of_several_lines_keeps_its_lines_and_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = without_controls(text)
    assert not OBEYED.search(shown.replace("\t", ""))
    assert shown.count("\n") == text.count("\n")


def test_what_other_libraries_log_is_harmless_too(caplog: pytest.LogCaptureFixture) -> None:
    with sanitized_logs():
        logging.getLogger("stranger").error("HEAD %s\x1b[2J\nagain\u202e", "http://joe:secret@host")
    assert caplog.messages == ["HEAD http://***@host\\x1b[2J\nagain\\u202e"]


def test_a_hosts_logger_gets_harmless_lines() -> None:
    said: list[str] = []
    Lines(said.append).hft_evaluation_finished(
        SimpleNamespace(stage="s", step=1, split="dev", scores={"t": {"f1\n\x1b[2J": 1.0}})  # type: ignore[arg-type]
    )
    assert said == ["s, step 1, dev: t f1 \\x1b[2J 1"]


def test_a_table_shows_markup_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("a",), [("[red]x[/red] \x1b[2J",)])
    assert capsys.readouterr().out == "a\n[red]x[/red] \\x1b[2J\n"


def test_the_model_card_quotes_the_texts_that_its_code_holds() -> None:
    harm = '/x"); import os; os.system("harm'
    config = {"id2label": {0: harm}, "label2id": {harm: 0}, "problem_type": "single_label_classification"}
    family = SimpleNamespace(plain_class="AutoModelForSequenceClassification")
    head: Any = SimpleNamespace(
        family=family, config=lambda: config, columns=list, decision=Decision, predicts_units=False
    )
    usage = usage_lines.Usage(task="topic", head=head, max_length=8, adapter_base=harm, revision=harm)
    tree = ast.parse("\n".join(usage_lines.lines(usage)))
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert called == {"from_pretrained", "eval", "softmax", "argmax", "tolist", "inference_mode"}
    assert [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)].count(harm) == 4


CSV_WRITERS = {
    "hft_core/predict/answer_tables.py",  # a table of answers that was asked for, in the user's own texts
    "hft_core/cli/templates/tracker/hft_my_plugin/tracker.py",  # numbers
}


WORKBOOKS = {"hft_core/data/readers/xlsx.py"}
"""Unpacked in memory, after the sizes of its parts were checked (`tests/core/data/test_xlsx.py`)."""


def test_no_other_module_writes_csv_or_a_workbook_and_no_archive_is_read() -> None:
    """What a spreadsheet would compute needs a file that a spreadsheet opens; what unpacks to elsewhere, an archive."""
    found = []
    for source in [*(ROOT / "hft_core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        if source.relative_to(ROOT).as_posix() in CSV_WRITERS | WORKBOOKS:
            continue
        text = source.read_text(encoding="utf-8")
        found += [f"{source}: {word}" for word in FORBIDDEN if re.search(rf"\b{word}\b", text)]
    assert found == []
