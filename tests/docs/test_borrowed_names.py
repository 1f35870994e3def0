"""Each borrowed name exists at its origin and in hft, and each shared name of hft's is in the table."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import transformers
import typer
from typer.main import get_command

from hft_core import events, results
from hft_core.cli.app import COMMANDS
from hft_core.cli.invocation import EVERYWHERE
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.schema import Output, Recipe
from hft_core.recipe.stage import Stage
from hft_core.specs import load

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "borrowed-names.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w-]+)\.(\w+)` \| `(\w+\.[\w.]+)\.(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
FLAGS = re.findall(r"^\| `--([\w-]+)` \| `(\w+\.[\w.]+)\.(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
PARTS: dict[str, Any] = {"Stage": Stage, "Output": Output, "Recipe": Recipe}
TYPES = {
    name: kind
    for module in (results, events)
    for name, kind in vars(module).items()
    if dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
}
"""What is written to `results.json` and `log.jsonl`."""
ORIGINS = (
    "transformers.TrainingArguments",
    "transformers.TrainerState",
    "transformers.GenerationConfig",
    "datasets.load_dataset",
    "peft.LoraConfig",
    "peft.LoraModel.add_weighted_adapter",
)
"""Whose names a flag or a result must not have without a row of the table."""


def names_of(origin: str) -> set[str]:
    library, *path = origin.split(".")
    found = reduce(getattr, path, importlib.import_module(library))
    names = {*inspect.signature(found).parameters, *(vars(found()) if path == ["GenerationConfig"] else ())}
    return names | {name for name, value in vars(found).items() if isinstance(value, property)}


def logged_by_trainer() -> set[str]:
    return set(re.findall(r'logs\["(\w+)"\]', inspect.getsource(transformers.Trainer)))


def flags() -> set[str]:
    found = set(EVERYWHERE)
    for name, where in COMMANDS.items():
        app = typer.Typer(add_completion=False)
        app.command(name)(load(where))
        found |= {option for parameter in get_command(app).params for option in parameter.opts}
    return {flag.removeprefix("--") for flag in found if flag.startswith("--")}


def keys_of(part: str, catalogue: Catalogue) -> set[str]:
    if part in PARTS:
        return set(PARTS[part].model_fields)
    if part in TYPES:
        return {field.name for field in dataclasses.fields(TYPES[part])}
    entries = [catalogue.get(seam, part) for seam in ("head", "strategy") if part in _names(catalogue, seam)]
    return {name for entry in entries for name in catalogue.load_options(entry).model_fields}


def _names(catalogue: Catalogue, seam: str) -> set[str]:
    return {entry.name for entry in catalogue.seam(seam)}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.discover()


@pytest.mark.parametrize(("part", "key", "origin", "name", "differs"), ROWS)
def test_a_borrowed_name_exists_at_its_origin_and_here(
    part: str, key: str, origin: str, name: str, differs: str, catalogue: Catalogue
) -> None:
    assert name in names_of(origin)
    assert key in keys_of(part, catalogue)
    assert key == name
    assert differs.strip()


def test_every_key_of_a_stage_is_borrowed_or_hfts_own() -> None:
    borrowed = {key for part, key, *_ in ROWS if part == "Stage"}
    own = set(re.findall(r"`(\w+)`", PAGE.split("hft's own keys of a stage:", 1)[1].split("\n\n", 1)[0]))
    assert borrowed | own == set(Stage.model_fields)
    assert not borrowed & own


def test_every_flag_with_a_name_of_an_origin_is_in_the_table() -> None:
    known = set().union(*map(names_of, ORIGINS))
    assert {flag for flag in flags() if flag.replace("-", "_") in known} == {flag for flag, *_ in FLAGS}
    for flag, origin, name, differs in FLAGS:
        assert name in names_of(origin)
        assert flag.replace("-", "_") == name
        assert differs.strip()


def test_every_result_with_a_name_of_an_origin_is_in_the_table(catalogue: Catalogue) -> None:
    known = set().union(logged_by_trainer(), *map(names_of, ORIGINS))
    shared = {(part, key) for part in TYPES for key in keys_of(part, catalogue) if key in known}
    assert shared == {(part, key) for part, key, *_ in ROWS if part in TYPES}
    assert {"loss", "grad_norm"} <= logged_by_trainer()
    assert {"losses", "gradient_norm"} <= keys_of("StepFinished", catalogue)


def test_what_transformers_takes_is_taken() -> None:
    assert Stage.model_validate({"torch_compile": True}).torch_compile == "yes"
    assert Stage.model_validate({"torch_compile": False}).torch_compile == "no"
    assert Stage.model_validate({"max_grad_norm": 0}).max_grad_norm == 0
