"""The versions that are declared, tested and installed go together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*lists: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for lines in lists for line in lines]
    return {canonicalize_name(r.name): r for r in found if r.name != PROJECT["name"]}


def pins(name: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def lowest(requirement: Requirement) -> Version:
    (bound,) = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    return bound


def test_every_requirement_has_a_lower_bound_and_no_upper_one() -> None:
    for name, requirement in requirements(PROJECT["dependencies"], *EXTRAS.values()).items():
        assert [part.operator for part in requirement.specifier] == [">="], name


def test_the_lowest_versions_are_tested() -> None:
    tested_extras = [lines for name, lines in EXTRAS.items() if name not in ("demo", "dev", "all")]
    declared = requirements(PROJECT["dependencies"], *tested_extras)
    tested = pins("lowest-constraints.txt")
    del declared["torch"]  # one version of it is tested
    assert {name: lowest(requirement) for name, requirement in declared.items()} == {
        name: version for name, version in tested.items() if name != "torch"
    }


def test_what_is_installed_is_allowed() -> None:
    installed = pins("constraints.txt")
    for name, requirement in requirements(PROJECT["dependencies"], *EXTRAS.values()).items():
        assert installed[name] in requirement.specifier, name


def test_torch_is_the_same_wherever_it_is_pinned() -> None:
    assert pins("constraints.txt")["torch"] == pins("lowest-constraints.txt")["torch"]
