"""Texts of plugins and data in a model card: shown, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from hft_core.runs import model_card

markdown_it = pytest.importorskip("markdown_it", reason="what reads the card; it comes with rich")

EVIL = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://evil)",
    "a | b | c",
    "`code` **bold** _it_",
    "# heading",
    "two\nlines\n\n# heading",
    "&lt;b&gt;",
    "\x1b[2J",
    "http_server_2",
]


def read(markdown: str) -> list[object]:
    return list(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown))


@pytest.mark.parametrize("text", EVIL)
def test_a_strangers_text_is_a_text(text: str) -> None:
    _, inline, _ = read("x " + model_card._plain(text))
    assert {child.type for child in inline.children} <= {"text", "text_special"}  # type: ignore[attr-defined]
    said = "".join(child.content for child in inline.children)  # type: ignore[attr-defined]
    assert said == "x " + " ".join(text.split()).replace("\x1b", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("text", EVIL)
def test_a_strangers_text_stays_in_its_cell(text: str) -> None:
    tokens = read(f"| a | b |\n| --- | --- |\n| {model_card._plain(text)} | 1 |\n")
    assert sum(token.type == "td_open" for token in tokens) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["a: 1\n", "a: '\n\n  ```\n\n  <script>'\n", "a: ````\n", "```\n"])
def test_nothing_in_a_recipe_ends_its_code_block(text: str) -> None:
    (block,) = read(model_card._block("yaml", text))
    assert (block.type, block.content) == ("fence", text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["model", "a`b", "``", "a\nb"])
def test_a_models_name_is_inline_code(text: str) -> None:
    _, inline, _ = read(model_card._code(text))
    (code,) = inline.children  # type: ignore[attr-defined]
    assert (code.type, code.content) == ("code_inline", " ".join(text.split()))


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("bert-base-uncased", True),
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("/home/someone/models/bert", False),
        ("models/of/mine", False),
        ("./model", False),
        ("", False),
    ],
)
def test_only_names_on_the_hub_stand_in_the_metadata(model: str, named: bool) -> None:
    assert model_card._is_on_hub(model) == named


def test_a_folder_that_looks_like_a_name_on_the_hub_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not model_card._is_on_hub("models/bert")
