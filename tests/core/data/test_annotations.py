"""Exports of annotation tools as rows: what each tool writes, what is left out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hft_core.data import files, row_notes
from hft_core.data.readers import read_file
from hft_core.data.readers.annotations.agreement import krippendorff_alpha
from hft_core.data.readers.annotations.items import span
from hft_core.data.readers.annotations.recognize import export_format
from hft_core.data.readers.annotations.word_tags import tags_of, words_of
from hft_core.data.row_checks import need_column
from hft_core.data.rows import Rows
from hft_core.errors import DataError

TEXT = "Ada Lovelace lived in London."


def export(folder: Path, format: str, records: list[Any]) -> Rows:
    lines = format in ("doccano", "prodigy")
    path = folder / ("export.jsonl" if lines else "export.json")
    written = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path.write_text(written, encoding="utf-8")
    return read_file(str(path), format, "line")


def columns(rows: Rows, *names: str) -> list[Any]:
    return [rows[name] for name in names]


# --- Label Studio


def task(*results: list[dict[str, Any]], text: str = TEXT, **annotation: Any) -> dict[str, Any]:
    return {"data": {"text": text, "source": "a"}, "annotations": [{"result": r, **annotation} for r in results]}


def marked(start: int, end: int, *labels: str, text: str | None = None, name: str = "who") -> dict[str, Any]:
    shown = {} if text is None else {"text": text}
    value = {"start": start, "end": end, "labels": list(labels), **shown}
    return {"type": "labels", "from_name": name, "to_name": "text", "value": value}


def choice(*labels: str, name: str = "topic") -> dict[str, Any]:
    return {"type": "choices", "from_name": name, "to_name": "text", "value": {"choices": list(labels)}}


def test_label_studio_spans_and_choices(tmp_path: Path) -> None:
    spans = [marked(0, 12, "PER", text="Ada Lovelace"), marked(22, 28, "LOC", text="London")]
    rows = export(tmp_path, "label-studio", [task([*spans, choice("history")]), task([choice("none")])])
    assert columns(rows, "text", "source", "label") == [[TEXT, TEXT], ["a", "a"], ["history", "none"]]
    assert rows["words"][0] == ["Ada", "Lovelace", "lived", "in", "London", "."]
    assert rows["tags"] == [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O"] * 6]
    assert rows.where(1).endswith("export.json, row 2")


def test_label_studio_questions_have_their_names_where_there_are_several(tmp_path: Path) -> None:
    rating = {"type": "rating", "from_name": "stars", "to_name": "text", "value": {"rating": 4}}
    rows = export(tmp_path, "label-studio", [task([choice("a", "b"), rating]), task([choice("a"), rating])])
    assert columns(rows, "topic", "stars") == [[["a", "b"], ["a"]], [4.0, 4.0]]


def test_label_studio_skipped_and_unanswered_tasks_are_left_out_and_counted(tmp_path: Path) -> None:
    tasks = [task([choice("a")]), task([choice("b")], was_cancelled=True), task(), task([])]
    rows = export(tmp_path, "label-studio", tasks)
    assert rows["label"] == ["a"]
    assert "3 items are left out: 1 skipped, 2 without an answer" in rows.notes[0]


def test_what_is_marked_as_ground_truth_outweighs_other_annotators(tmp_path: Path) -> None:
    item = task([choice("a")], [choice("a")], [choice("b")])
    item["annotations"][2]["ground_truth"] = True
    rows = export(tmp_path, "label-studio", [item])
    assert rows["label"] == ["b"]
    assert not rows.notes


def test_the_answer_of_most_annotators_is_taken_and_their_agreement_said(tmp_path: Path) -> None:
    tasks = [task([choice("a")], [choice("a")], [choice("b")]), task([choice("a")], [choice("b")])]
    rows = export(tmp_path, "label-studio", [*tasks, task([choice("b")], [choice("b")])])
    assert rows["label"] == ["a", "b"]
    assert rows.notes[0].endswith("1 item is left out: 1 with as many annotators for one answer as for another")
    assert (
        "of 3 items with several annotators' answers to 'topic', 1 have equal ones (Krippendorff's alpha"
        in rows.notes[1]
    )


def test_the_order_of_clicks_is_no_disagreement(tmp_path: Path) -> None:
    spans = [marked(0, 12, "PER", text="Ada Lovelace"), marked(22, 28, "LOC", text="London")]
    item = task([*spans, choice("a", "b")], [*spans[::-1], choice("b", "a")])
    rows = export(tmp_path, "label-studio", [item])
    assert columns(rows, "label", "tags") == [[["a", "b"]], [["B-PER", "I-PER", "O", "O", "B-LOC", "O"]]]
    assert all("1 have equal ones" in note for note in rows.notes)


def test_notes_of_an_export_are_warnings_of_the_task(tmp_path: Path) -> None:
    rows = export(tmp_path, "label-studio", [task([choice("a")]), task()])
    parts = {"train": rows.select([0]), "dev": rows.select([0])}
    found = row_notes.warnings("topic", parts, {"train": {}, "dev": {}})
    assert found == [f"task 'topic': {tmp_path}/export.json: 1 item is left out: 1 without an answer"]


@pytest.mark.parametrize(
    ("start", "end"),
    [pytest.param(2, 8, id="characters"), pytest.param(3, 9, id="units of UTF-16, as JavaScript counts")],
)
def test_offsets_behind_an_emoji_are_those_that_give_the_text_of_the_span(start: int, end: int, tmp_path: Path) -> None:
    rows = export(tmp_path, "label-studio", [task([marked(start, end, "LOC", text="London")], text="🎉 London")])
    assert columns(rows, "words", "tags") == [[["🎉", "London"]], [["O", "B-LOC"]]]


def test_label_studio_json_min(tmp_path: Path) -> None:
    value = {"start": 22, "end": 28, "text": "London", "labels": ["LOC"]}
    record = {"id": 1, "text": TEXT, "topic": {"choices": ["a", "b"]}, "where": [value], "mood": "good", "annotator": 1}
    rows = export(tmp_path, "label-studio", [record])
    assert columns(rows, "label", "mood") == [[["a", "b"]], ["good"]]
    assert rows["tags"] == [["O", "O", "O", "O", "B-LOC", "O"]]
    with pytest.raises(DataError, match=r"row 2: the item 1 stands there twice.*expected an export as JSON"):
        export(tmp_path, "label-studio", [record, record])


# --- doccano


@pytest.mark.parametrize(
    "answers",
    [
        {"label": [[0, 12, "PER"], [22, 28, "LOC"]]},
        {"labels": [[22, 28, "LOC"], [0, 12, "PER"]]},
        {
            "entities": [
                {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 12},
                {"id": 2, "label": "LOC", "start_offset": 22, "end_offset": 28},
            ],
            "relations": [],
        },
    ],
)
def test_doccano_spans(answers: dict[str, Any], tmp_path: Path) -> None:
    rows = export(tmp_path, "doccano", [{"id": 7, "text": TEXT, **answers, "Comments": []}])
    assert rows["tags"] == [["B-PER", "I-PER", "O", "O", "B-LOC", "O"]]
    assert sorted(rows.columns) == ["id", "tags", "text", "words"]


def test_doccano_labels(tmp_path: Path) -> None:
    one = export(tmp_path, "doccano", [{"text": "a", "label": ["x"]}, {"text": "b", "label": []}])
    assert columns(one, "text", "label") == [["a"], ["x"]]
    assert "1 without an answer" in one.notes[0]
    several = export(tmp_path, "doccano", [{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}])
    assert several["label"] == [["x", "y"], []]


# --- Prodigy


def prodigy(text: str = TEXT, answer: str = "accept", **keys: Any) -> dict[str, Any]:
    return {"text": text, "answer": answer, "_input_hash": 1, **keys}


def test_prodigy_words_are_its_tokens(tmp_path: Path) -> None:
    words = [("Ada", 0), ("Lovelace", 4), ("lived", 13), ("in", 19), ("London.", 22)]
    tokens = [{"text": word, "start": at, "end": at + len(word), "id": i} for i, (word, at) in enumerate(words)]
    record = prodigy(tokens=tokens, spans=[{"start": 22, "end": 28, "label": "LOC"}], meta={"id": 3})
    rows = export(tmp_path, "prodigy", [record, prodigy(answer="reject"), prodigy(answer="ignore")])
    assert columns(rows, "words", "tags") == [[[word for word, _ in words]], [["O", "O", "O", "O", "B-LOC"]]]
    assert "2 items are left out: 1 rejected, 1 ignored or not answered" in rows.notes[0]
    assert "1 of 1 spans begin or end inside a word and are read as whole words" in rows.notes[1]
    assert rows.notes[1].endswith("'London' as 'London.')")


def test_prodigy_choices_and_accepted_labels(tmp_path: Path) -> None:
    options = [{"id": "x", "text": "X"}, {"id": "y", "text": "Y"}]
    rows = export(tmp_path, "prodigy", [prodigy("a", options=options, accept=["x"]), prodigy("b", accept=["y"])])
    assert rows["label"] == ["x", "y"]
    binary = [
        prodigy("a", label="x"),
        prodigy("a", label="y"),
        prodigy("b", label="x"),
        prodigy("b", "reject", label="y"),
    ]
    assert export(tmp_path, "prodigy", binary)["label"] == [["x", "y"], ["x"]]


def test_prodigy_records_of_several_annotators_are_one_item(tmp_path: Path) -> None:
    records = [prodigy(accept=[label], _annotator_id=who) for who, label in [("a", "x"), ("b", "x"), ("c", "y")]]
    assert export(tmp_path, "prodigy", records)["label"] == ["x"]


# --- Argilla


def test_argilla_responses(tmp_path: Path) -> None:
    def response(value: Any, status: str = "submitted") -> dict[str, Any]:
        return {"value": value, "user_id": "u", "status": status}

    spans = [{"start": 22, "end": 28, "label": "LOC"}]
    given = {"topic": [response("a"), response("b", "discarded")], "stars": [response(4)], "where": [response(spans)]}
    records = [
        {"id": "1", "fields": {"text": TEXT}, "metadata": {"day": 3}, "suggestions": {}, "responses": given},
        {"id": "2", "fields": {"text": TEXT}, "responses": {"topic": [response("b", "discarded")]}},
        {"id": "3", "fields": {"text": TEXT}, "responses": {}},
    ]
    rows = export(tmp_path, "argilla", records)
    assert columns(rows, "text", "day", "topic", "stars") == [[TEXT], [3], ["a"], [4.0]]
    assert rows["tags"] == [["O", "O", "O", "O", "B-LOC", "O"]]
    assert rows.notes == (f"{tmp_path}/export.json: 2 items are left out: 1 discarded, 1 without an answer",)


# --- spans and words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't go, U.S.!", ["Don", "'", "t", "go", ",", "U", ".", "S", ".", "!"]),
        ("北京 2026年", ["北", "京", "2026", "年"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 \u200b x", ["cafe\u0301", "x"]),
        ("e\u0301\u0301!", ["e\u0301\u0301", "!"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in words_of(text)] == words


def test_a_span_is_trimmed_of_blanks_and_widened_to_words() -> None:
    words = words_of(TEXT)
    blank = span(TEXT, 12, 19, "X", "here")
    assert TEXT[blank.start : blank.end] == "lived"
    tags, widened = tags_of(TEXT, words, [span(TEXT, 4, 8, "PER", "here")], "here")
    assert tags == ["O", "B-PER", "O", "O", "O", "O"]
    assert [(found.label, whole) for found, whole in widened] == [("PER", "Lovelace")]


def test_adjacent_spans_of_one_label_stay_apart() -> None:
    text = "北京上海"
    spans = [span(text, 0, 2, "LOC", "here"), span(text, 2, 4, "LOC", "here")]
    assert tags_of(text, words_of(text), spans, "here")[0] == ["B-LOC", "I-LOC", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("format", "record", "says"),
    [
        ("doccano", {"text": TEXT, "label": [[0, 12, "PER"], [4, 19, "X"]]}, r"line 1: the span 'PER' .* overlap"),
        ("doccano", {"text": TEXT, "label": [[0, 2, "A"], [2, 3, "B"]]}, "another span are in one word, 'Ada'"),
        ("doccano", {"text": TEXT, "label": [[0, 99, "PER"]]}, "a span from 0 to 99 in a text of 29 characters"),
        ("doccano", {"text": TEXT, "label": [[3, 4, "PER"]]}, "the span 'PER' holds blanks only"),
        ("doccano", {"text": TEXT, "label": [[3, "PER"]]}, r"expected labels, or spans as \[start, end, label\]"),
        ("doccano", {"text": TEXT}, "expected 'text' and one of 'label', 'labels', 'entities'"),
        ("label-studio", task([marked(0, 3, "A", "B", text="Ada")]), "expected one label: a word has one tag"),
        ("label-studio", task([marked(0, 3, "A", text="Bob")]), "is 'Ada' in the text, but 'Bob' by its own"),
        (
            "label-studio",
            task([marked(2, 8, "A")], text="🎉 London"),
            "cannot be told; expected an export with the texts",
        ),
        (
            "label-studio",
            task([{"type": "brushlabels", "value": {}}]),
            "a result of the type 'brushlabels', expected one",
        ),
        ("label-studio", {"data": {"text": TEXT}}, "expected the list 'annotations' beside 'data'"),
        ("label-studio", task(), r"no item has an answer \(1 without an answer\)"),
        ("label-studio", task([choice("a")]) | {"data": {"text": TEXT, "label": 1}}, "have a column 'label'"),
        ("prodigy", {"html": "x", "answer": "accept"}, "expected a 'text'"),
        ("argilla", {"text": TEXT, "label": "a"}, "expected the objects 'fields' and 'responses'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(format: str, record: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        export(tmp_path, format, [record])


# --- exports that are not named as such


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("label-studio", task([choice("a")])),
        ("label-studio", {"id": 1, "text": TEXT, "topic": {"choices": ["a"]}, "annotator": 1}),
        ("argilla", {"fields": {"text": TEXT}, "responses": {}}),
        ("doccano", {"text": TEXT, "label": [[0, 3, "PER"]]}),
        ("prodigy", prodigy(label="x")),
        (None, {"text": TEXT, "label": ["a"]}),
        (None, {"text": TEXT, "label": [0, 3]}),
        (None, {"text": TEXT, "answer": "B"}),
    ],
)
def test_an_export_is_recognized(format: str | None, record: Any, tmp_path: Path) -> None:
    path = tmp_path / ("rows.json" if format in ("label-studio", "argilla") else "rows.jsonl")
    path.write_text(json.dumps([record] if path.suffix == ".json" else record), encoding="utf-8")
    assert export_format(str(path)) == format


def test_a_missing_column_of_an_export_names_its_format(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([task([choice("a")])]), encoding="utf-8")
    rows = files.read([str(path)], None, "line", task="topic")
    with pytest.raises(DataError, match="It is an export of an annotation tool: 'format: label-studio' reads it"):
        need_column(rows, "text", "a text", task="topic")


def test_rejected_answers_of_prodigy_that_are_read_as_rows_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(prodigy(answer="reject", label="x")), encoding="utf-8")
    rows = files.read([str(path)], None, "line", task="topic")
    assert rows["label"] == ["x"]
    [note] = rows.notes
    assert note.endswith("what annotators rejected or ignored is learned with it; 'format: prodigy' leaves that out")


# --- agreement


def test_krippendorffs_alpha_is_that_of_his_example() -> None:
    """Krippendorff (2011), example C: 4 observers, 12 units."""
    rows = ["123321412...", "1233224125.3", ".333234 2251.".replace(" ", ""), "12332441251."]
    units = [[row[i] for row in rows if row[i] != "."] for i in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([[float(v) for v in unit] for unit in units]) == pytest.approx(0.849, abs=5e-4)


def test_alpha_where_there_is_nothing_to_measure() -> None:
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
