"""What `hft init` makes of files in the layouts that people have."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hft_core.errors import DataError, UsageError
from hft_core.inspection.draft import Draft, draft
from hft_core.inspection.draft_text import recipe_text, summary
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly

CATALOGUE = Catalogue.discover()


def _example_files() -> ModuleType:
    """`example_files.py` beside this file: the tests are no package that it could be imported from."""
    spec = spec_from_file_location("hft_example_files", Path(__file__).with_name("example_files.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    return sys.modules[spec.name]


EXAMPLES = _example_files()
LAYOUTS, WRONG = EXAMPLES.LAYOUTS, EXAMPLES.WRONG


def made(layout: Any, folder: Path) -> Draft:
    words = EXAMPLES.Words()
    files = [str(folder / name) for name in layout.write(folder, words)]
    unlabeled = [str(folder / name) for name in layout.unlabeled(folder, words)] if layout.unlabeled else []
    return draft(files, unlabeled, None, folder, CATALOGUE)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_recognized_and_their_recipe_validates(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    found = made(layout, tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(found, "recipe.yaml"), encoding="utf-8")
    recipe = recipe_file.read(path)
    assert recipe.data == found.data
    resolved = resolve(recipe_file.validate(recipe), CATALOGUE, recipe.where)
    rows = assembly.load_rows(resolved, assembly.build_heads(resolved), {})
    assert all(len(splits["train"]) for splits in rows.values())
    tasks = {t: {k: v for k, v in d.items() if k not in ("data", "max_length")} for t, d in found.data["tasks"].items()}
    assert (tasks == layout.tasks) is (name not in WRONG), tasks
    assert layout.also.items() <= next(iter(found.data["tasks"].values()))["data"].items()


def test_most_layouts_are_right() -> None:
    assert len(LAYOUTS) >= 32
    assert len(LAYOUTS.keys() - WRONG) >= 30


def csv_file(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_what_is_doubtful_is_said(tmp_path: Path) -> None:
    rows = "".join(f"{i},some text number {i},{'abc'[i % 3]},{'xy'[i % 2]}\n" for i in range(60))
    found = draft([csv_file(tmp_path, f"id,words,kind,colour\n{rows}")], [], None, tmp_path, CATALOGUE)
    assert found.data["tasks"]["table"]["label"] == "colour"
    lines = "\n".join(summary(found))
    assert "not sure: whether 'colour' is what is to be learned: its name does not say so" in lines
    assert "not sure: whether 'kind' should be learned too, in a task of its own" in lines
    assert "# not sure: whether 'kind'" in recipe_text(found, "recipe.yaml")


def test_rare_classes_and_repeated_texts_are_seen(tmp_path: Path) -> None:
    rows = [f"text {i % 40} of them,{'a' if i else 'b'}" for i in range(100)]
    found = draft([csv_file(tmp_path, "text,label\n" + "\n".join(rows))], [], None, tmp_path, CATALOGUE)
    task = found.tasks["table"]
    assert (task.repeated, task.keep_together) == (60, "text")
    assert any("class_weights: balanced" in doubt for doubt in task.proposal.unsure)
    assert any("1 classes with fewer than 3 rows (b)" in doubt for doubt in task.proposal.unsure)
    assert found.data["tasks"]["table"]["data"] == {"files": "table.csv", "split": {"by": "text"}}


def test_a_text_cannot_break_out_of_the_comments(tmp_path: Path) -> None:
    rows = [{"text": f"a text of number {i}", "label": ["a\u2028tasks: {}", "b\x1b[31m"][i % 2]} for i in range(40)]
    rows = [{**row, "label": row["label"].replace("\x1b", "")} for row in rows]
    files = EXAMPLES._jsonl(tmp_path, "rows.jsonl", rows)
    found = draft([str(tmp_path / files[0])], [], None, tmp_path, CATALOGUE)
    text = recipe_text(found, "recipe.yaml")
    assert recipe_file.parse(text, "recipe.yaml").data == found.data
    assert "\u2028" not in text


def test_a_model_that_cannot_have_the_tasks_is_refused(tmp_path: Path, models: Any) -> None:
    pairs = "".join(f"a long question number {i},a short answer {i}\n" for i in range(30))
    files = [csv_file(tmp_path, f"question,answer\n{pairs}")]
    with pytest.raises(UsageError, match=r"it is an encoder, which writes no text, but 'answer' is the answer to"):
        draft(files, [], str(models["bert"]), tmp_path, CATALOGUE)
    texts = csv_file(tmp_path, "one line\nanother line\nthe third one\n", "texts.txt")
    with pytest.raises(UsageError, match="an encoder-decoder, which learns nothing from texts without labels"):
        draft(files, [texts], str(models["t5"]), tmp_path, CATALOGUE)
    with_decoder = draft(files, [], str(models["llama"]), tmp_path, CATALOGUE)
    assert with_decoder.data["tasks"]["table"]["head"] == "instruction"


def test_columns_without_texts_are_refused_with_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table.csv: no column of texts.*'a' \(number\), 'b' \(number\)"):
        draft([csv_file(tmp_path, "a,b\n1,2\n3,4\n")], [], None, tmp_path, CATALOGUE)


TEXTS = [f"the cat saw dog number {i} near the old river" for i in range(24)]


def drafted(folder: Path, name: str, header: str, lines: list[str]) -> Draft:
    path = folder / name
    path.write_text("\n".join([*([header] if header else []), *lines, ""]), encoding="utf-8")
    return draft([str(path)], [], None, folder, CATALOGUE)


@pytest.mark.parametrize(
    ("name", "header", "line", "message"),
    [
        ("a.csv", "text;label", "{text};{i}", "the header 'text;label' is a single cell"),
        ("a.tsv", "text,label", "{text},{i}", "the header 'text,label' is a single cell"),
        ("a.csv", "text|label", "{text}|{i}", "the header 'text|label' is a single cell"),
        ("a.csv", "sep=,\ntext,label", "{text},{i}", "the first line is Excel's 'sep='"),
        (
            "a.csv",
            "",
            "{text},{i}",
            r"the first line \('the cat saw dog number 0 near the old ri', '0'\) looks like a row",
        ),
        ("a.csv", "", "{text},{i}.5", ".* looks like a row, expected a header"),
        ("a.csv", "", "class{i},{text}", ".* looks like a row, expected a header"),
    ],
)
def test_a_header_that_gives_no_columns_is_refused(
    name: str, header: str, line: str, message: str, tmp_path: Path
) -> None:
    lines = [line.format(text=text, i=i % 3) for i, text in enumerate(TEXTS)]
    with pytest.raises(DataError, match=rf"{name}: {message}"):
        drafted(tmp_path, name, header, lines)


@pytest.mark.parametrize("header", ["0,1", "text,spam", "What did the cat see?,spam?"])
def test_a_header_with_odd_names_is_one(header: str, tmp_path: Path) -> None:
    lines = [f"{text},{['spam', 'ham'][i % 2]}" for i, text in enumerate(TEXTS)]
    (task,) = drafted(tmp_path, "a.csv", header, lines).tasks.values()
    assert task.proposal.label == header.partition(",")[2]


def test_a_column_that_is_named_as_one_to_learn_and_cannot_be_is_told(tmp_path: Path) -> None:
    lines = [f'{text},"{i},25"' for i, text in enumerate(TEXTS)]
    (task,) = drafted(tmp_path, "a.csv", "text,score", lines).tasks.values()
    assert task.proposal.head == "mlm"
    (doubt,) = task.proposal.unsure
    assert doubt.startswith("whether 'score' is to be learned: its cells (such as '0,25') are neither numbers nor one")


def test_a_column_of_objects_that_are_written_as_text_is_told(tmp_path: Path) -> None:
    cells = [f"\"{{'text': ['cat{i}'], 'answer_start': [4]}}\"" for i in range(len(TEXTS))]
    lines = [f"what does {text} say,{text},{cell}" for text, cell in zip(TEXTS, cells, strict=True)]
    (task,) = drafted(tmp_path, "a.csv", "question,context,answers", lines).tasks.values()
    doubt = task.proposal.unsure[-1]
    assert doubt.startswith("what 'answers' is for: its cells (such as ")
    assert "are objects written as text" in doubt
