from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from hft_core.cli import main
from hft_core.cli.option_words import option_type
from hft_core.options import LocalPath, Options
from hft_core.plugins.catalogue import Catalogue


class Typed(Options):
    text: str | tuple[str, str] = "text"
    labels: tuple[str, ...] | None = None
    kind: Literal["a", "b", "c"] = "a"
    always: Literal[True] = True
    share: float = Field(0.5, gt=0, lt=1)
    count: int | None = Field(None, ge=1)
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    flag: bool = False
    folder: LocalPath = "a"
    folders: tuple[LocalPath, ...] = ()
    maybe: LocalPath | None = None


WORDS = {
    "text": "text or list of two texts",
    "labels": "list of texts",
    "kind": "'a', 'b' or 'c'",
    "always": "true",
    "share": "number > 0, < 1",
    "count": "whole number >= 1",
    "ranks": "mapping of names to whole numbers >= 1",
    "flag": "true or false",
    "folder": "path",
    "folders": "list of paths",
    "maybe": "path",
}


@pytest.mark.parametrize("name", WORDS)
def test_types_are_words(name: str) -> None:
    assert option_type(Typed.model_fields[name]) == WORDS[name]


@pytest.mark.parametrize("seam", ["backbone", "head", "strategy", "combiner"])
def test_no_type_of_an_installed_plugin_is_pythons(seam: str) -> None:
    catalogue = Catalogue.discover()
    for entry in catalogue.seam(seam):
        for name, field in catalogue.load_options(entry).model_fields.items():
            assert not re.search(
                r"[\[\]|<]|Optional|Literal|\bstr\b|\bint\b", option_type(field).replace("< ", "").replace("<=", "")
            ), name


def described(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["describe", *arguments]) == 0
    return capsys.readouterr().out


def test_a_head_is_described_with_the_columns_that_its_rows_need(capsys: pytest.CaptureFixture[str]) -> None:
    text = described(capsys, "head", "span")
    assert re.search(r"question +text +always", text)
    assert re.search(r"answers\.text +list of texts +to train and evaluate", text)
    assert "NAME:\n      head: span\n      data: FILE" in text
    found: dict[str, Any] = json.loads(described(capsys, "head", "span", "--json"))
    assert set(found["example_row"]) == {column["name"] for column in found["columns"]}


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (("head", "mlm"), "learns from the texts alone, without labels"),
        (("strategy", "task-lora"), "only in a run's last stage"),
        (("combiner", "pcgrad"), "combines one gradient per task"),
    ],
)
def test_what_a_plugin_can_do_is_said_in_words(
    plugin: tuple[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = described(capsys, *plugin)
    assert f"- {said}\n" in text
    assert not re.search("example_rows|needs_labels|private_parts|per_task_gradients", text)
