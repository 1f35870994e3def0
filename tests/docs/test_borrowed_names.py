"""Each borrowed name exists at its origin and in hft."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.schema import Output, Recipe
from hft_core.recipe.stage import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "borrowed-names.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w-]+)\.(\w+)` \| `(\w+)\.(\w+)\.(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
PARTS = {"Stage": Stage, "Output": Output, "Recipe": Recipe}


def options_of(plugin: str, catalogue: Catalogue) -> set[str]:
    entries = [catalogue.get(seam, plugin) for seam in ("head", "strategy") if plugin in _names(catalogue, seam)]
    return {name for entry in entries for name in catalogue.load_options(entry).model_fields}


def _names(catalogue: Catalogue, seam: str) -> set[str]:
    return {entry.name for entry in catalogue.seam(seam)}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.discover()


@pytest.mark.parametrize(("part", "key", "library", "owner", "name", "differs"), ROWS)
def test_a_borrowed_name_exists_at_its_origin_and_here(
    part: str, key: str, library: str, owner: str, name: str, differs: str, catalogue: Catalogue
) -> None:
    origin = getattr(importlib.import_module(library), owner)
    known = {*inspect.signature(origin).parameters, *(vars(origin()) if owner == "GenerationConfig" else ())}
    assert name in known
    assert key in (PARTS[part].model_fields if part in PARTS else options_of(part, catalogue))
    assert key == name
    assert differs.strip()


def test_every_key_of_a_stage_is_borrowed_or_hfts_own() -> None:
    borrowed = {key for part, key, *_ in ROWS if part == "Stage"}
    own = set(re.findall(r"`(\w+)`", PAGE.split("hft's own keys of a stage:", 1)[1].split("\n\n", 1)[0]))
    assert borrowed | own == set(Stage.model_fields)
    assert not borrowed & own


def test_what_transformers_takes_is_taken() -> None:
    assert Stage.model_validate({"torch_compile": True}).torch_compile == "yes"
    assert Stage.model_validate({"torch_compile": False}).torch_compile == "no"
    assert Stage.model_validate({"max_grad_norm": 0}).max_grad_norm == 0
