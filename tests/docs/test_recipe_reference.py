from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hft_core.recipe.fields import Model, PluginChoice
from hft_core.recipe.recipe_file import load, parse
from hft_core.recipe.schema import BackboneChoice, Data, Output, Queries, Recipe, Split, Task
from hft_core.recipe.stage import Sampling, Stage

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")

SECTIONS: dict[str, type[BaseModel]] = {
    "Recipe": Recipe,
    "Plugin": PluginChoice,
    "Backbone": BackboneChoice,
    "Task": Task,
    "Data": Data,
    "Queries": Queries,
    "Split": Split,
    "Stage": Stage,
    "Sampling": Sampling,
    "Output": Output,
}


def rows(section: str) -> dict[str, tuple[str, str, str]]:
    """Type, default and meaning by key, from the table of one section."""
    body = PAGE.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", body, re.MULTILINE)
    return {key: (kind, default, meaning) for key, kind, default, meaning in found}


def shown(default: Any) -> str:
    if isinstance(default, Model):
        return "its defaults"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "—" if default in (None, "", (), {}) else f"`{default}`"


def test_every_part_of_a_recipe_has_a_section() -> None:
    parts, found = [Recipe], set()
    while parts:
        part = parts.pop()
        found.add(part)
        for field in part.model_fields.values():
            parts += [m for m in [*Model.__subclasses__(), BackboneChoice] if m.__name__ in str(field.annotation)]
    assert found == set(SECTIONS.values())


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_with_its_default(section: str) -> None:
    documented = rows(section)
    fields = SECTIONS[section].model_fields
    assert list(documented) == list(fields)
    for key, field in fields.items():
        default = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
        assert documented[key][1] == default, key
        assert documented[key][2] == " ".join((field.description or "").split()), key


def test_the_example_is_a_recipe() -> None:
    example = PAGE.split("```yaml\n", 1)[1].split("```", 1)[0]
    recipe = load(parse(example, "example"))
    assert [stage.name for stage in recipe.stages] == ["pretrain", "finetune"]


def test_the_overrides_that_the_page_shows_work() -> None:
    example = PAGE.split("```yaml\n", 1)[1].split("```", 1)[0].replace("name: finetune", "name: train")
    recipe = load(parse(example, "example"), ["stages.train.epochs=", "stages.train.max_steps=100"])
    assert (recipe.stages[1].num_train_epochs, recipe.stages[1].max_steps) == (None, 100)
    shown_sets = re.findall(r"--set (stages\.(?:0|finetune)\.\S+?)`", PAGE)
    assert len(shown_sets) >= 2
    for assignment in shown_sets:
        load(parse(example.replace("name: train", "name: finetune"), "example"), [assignment])
