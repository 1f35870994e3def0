"""What the pages show is true: recipes validate, names exist, commands and flags are there, links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from hft_core.cli.app import COMMANDS
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.flags import recipe_from_flags
from hft_core.recipe.schema import Recipe
from hft_core.recipe.yaml_source import Source

ROOT = Path(__file__).parents[2]
PROJECT = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
PAGES = [*(ROOT / name for name in PROJECT), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
SETUP = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[demo]' && .venv/bin/hft demo"
OF_THE_READER = {"biases", "mine", "norms"}
"""Plugins that a page lets its reader write."""
EVERYWHERE = {"--plugin", "--block", "--no-third-party", "--debug"}
FLAGS_OF_A_RECIPE = ("--backbone", "--task", "--strategy", "--combiner", "--set")


def blocks(language: str) -> list[tuple[str, str]]:
    """Page and content of each fenced block in `language`."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [(page, content) for page, text in TEXTS.items() for content in fence.findall(text)]


def commands() -> list[tuple[str, list[str]]]:
    """Page and arguments of each `hft` command."""
    found = []
    for page, content in blocks("sh"):
        for line in content.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            starts = [i for i, word in enumerate(words) if i == 0 or words[i - 1] == "&&"]
            for start, end in zip(starts, [*(i - 1 for i in starts[1:]), len(words)], strict=True):
                if words[start].rpartition("/")[2] == "hft":
                    found.append((page, words[start + 1 : end]))
    return found


@cache
def help_of(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", "hft_core", *command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def values(arguments: list[str], flag: str) -> list[str]:
    return [after for word, after in pairwise(arguments) if word == flag]


def read(text: str, overrides: list[str]) -> Recipe:
    return recipe_file.validate(recipe_file.override(recipe_file.parse(text, "page"), overrides))


def known(seam: str) -> set[str]:
    return {entry.name for entry in Catalogue.discover().seam(seam)} | OF_THE_READER


def check_names(recipe: Recipe) -> None:
    """Every plugin that the recipe names is there."""
    assert {task.head.type for task in recipe.tasks.values()} <= known("head")
    assert {stage.strategy.type for stage in recipe.stages if stage.strategy} <= known("strategy")
    assert {stage.combiner.type for stage in recipe.stages if stage.combiner} <= known("combiner")


def test_there_is_something_to_check() -> None:
    assert len(blocks("yaml")) >= 4
    assert len(blocks("python")) >= 8
    assert len(commands()) >= 30


@pytest.mark.parametrize(("page", "content"), [b for b in blocks("yaml") if "backbone:" in b[1]])
def test_a_recipe_that_is_shown_validates(page: str, content: str) -> None:
    check_names(read(content, []))


@pytest.mark.parametrize(("page", "content"), blocks("python"))
def test_python_that_is_shown_compiles_and_its_names_exist(page: str, content: str) -> None:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("hft_core", "transformers", "peft")):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hft_core":
            assert hasattr(importlib.import_module("hft_core"), node.attr)


@pytest.mark.parametrize(("page", "arguments"), commands())
def test_a_command_that_is_shown_is_there_with_its_flags(page: str, arguments: list[str]) -> None:
    assert arguments[0] in COMMANDS
    flags = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    offered = set(re.findall(r"--?[\w-]+", help_of(arguments[0]))) | EVERYWHERE
    assert flags <= offered, f"hft {arguments[0]} has no {', '.join(flags - offered)}"


@pytest.mark.parametrize(("page", "arguments"), [c for c in commands() if "--backbone" in c[1]])
def test_a_recipe_in_flags_is_a_recipe(page: str, arguments: list[str]) -> None:
    backbone, tasks, strategy, combiner, sets = (values(arguments, flag) for flag in FLAGS_OF_A_RECIPE)
    data = recipe_from_flags(*backbone, tasks, strategy=(strategy or [None])[0], combiner=(combiner or [None])[0])
    check_names(recipe_file.load(Source.of(data), sets))


@pytest.mark.parametrize(("page", "arguments"), [c for c in commands() if "--set" in c[1] and "--backbone" not in c[1]])
def test_an_override_that_is_shown_fits_the_readmes_recipe(page: str, arguments: list[str]) -> None:
    recipe = next(content for name, content in blocks("yaml") if name == "README.md")
    check_names(read(recipe, values(arguments, "--set")))


@pytest.mark.parametrize(("page", "arguments"), [c for c in commands() if c[1][0] == "describe"])
def test_a_plugin_that_is_described_is_there(page: str, arguments: list[str]) -> None:
    assert arguments[2] in known(arguments[1])


def test_the_set_up_commands_are_those_that_are_tested() -> None:
    shell = [content.strip() for page, content in blocks("sh") if page == "README.md"]
    assert shell[:2] == [SETUP, "bash .ci/test"]
    assert f"{SETUP} --out runs/first" in TEXTS["docs/tutorials/first-run.md"]
    assert re.search(r"^bash \.ci/test ", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    steps = (ROOT / ".ci" / "test").read_text().splitlines()
    assert "pip install -qq --constraint constraints.txt --editable '.[dev]'" in steps
    assert re.fullmatch(r'python -m pytest .*"\$@"', steps[-1]), "pytest comes last: its summary ends the output"


def test_links_lead_somewhere() -> None:
    broken = []
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / page).parent / path if path else ROOT / page
            if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
                broken.append(f"{page}: {target}")
    assert broken == []


def test_the_overview_links_every_page() -> None:
    overview = ROOT / "docs" / "README.md"
    linked = {(overview.parent / path).resolve() for path in re.findall(r"\]\(([^)#]+)", TEXTS["docs/README.md"])}
    pages = {page.resolve() for page in PAGES if page.is_relative_to(overview.parent)}
    assert pages - linked - {overview.resolve()} == set(), "the site takes its contents from docs/README.md"


def test_modules_that_a_page_names_exist() -> None:
    named = re.compile(r"`((?:hft_core|plugins|tests|docs)/[\w/]+\.py)`")
    missing = [
        f"{page}: {path}"
        for page, text in TEXTS.items()
        for path in named.findall(text)
        if not (ROOT / path).exists() and Path(path).stem not in OF_THE_READER | {"test_conformance"}
    ]
    assert missing == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
