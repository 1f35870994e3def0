"""The project's files for a code host: they parse, and agree with the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
pytestmark = pytest.mark.skipif(not FORMS, reason="a source distribution has no .github")


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_runs_what_a_change_has_to_pass_with_pinned_actions() -> None:
    (job,) = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert job["timeout-minutes"] == 60
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in actions)
    (version,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f">={version}" == PROJECT["requires-python"]


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_a_code_host_demands(form: Path) -> None:
    data = parsed(form)
    assert {"name", "description", "body"} <= set(data)
    ids = [field["id"] for field in data["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 2
    assert all("label" in field["attributes"] for field in data["body"] if field["type"] != "markdown")


def test_the_citation_is_of_this_version() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == ["The hft developers"]


def test_the_changelog_has_a_section_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert headings[:2] == ["Unreleased", PROJECT["version"]]
