"""Each distribution of `contrib/` as a user gets it: a wheel beside the core's, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.distributions.conftest import Environment

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
TRAIN_WITH = Path(__file__).with_name("train_with.py")
FOLDERS = sorted(path.parent for path in (ROOT / "contrib").glob("*/pyproject.toml"))


class Installed:
    """A distribution of contrib in its environment."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self.folder = folder
        self.environment = environment
        self.project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def installed(
    request: pytest.FixtureRequest,
    make_environment: Callable[[Path], Environment],
    wheel: Path,
    build: Callable[[str, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Installed:
    folder: Path = request.param
    # The build leaves nothing in the repository, and finds nothing there that git ignores.
    copy = tmp_path_factory.mktemp("contrib") / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__", ".*", "build", "dist"))
    environment = make_environment(tmp_path_factory.mktemp(folder.name))
    environment.install(wheel, build("wheel", copy))
    return Installed(folder, environment)


def test_there_are_five_or_more() -> None:
    assert len(FOLDERS) >= 5


def test_its_names_and_requirements_are_as_contrib_has_them(installed: Installed) -> None:
    project, name = installed.project, installed.folder.name
    assert project["name"] == name
    assert "hft-core>=0.1" in project["dependencies"]
    assert {module.partition(".")[0] for module in project["entry-points"]["hft"].values()} == {name.replace("-", "_")}
    assert len((installed.folder / "README.md").read_text(encoding="utf-8").splitlines()) >= 20


def test_it_is_listed_as_its_own_and_can_be_used(installed: Installed) -> None:
    rows = json.loads(installed.environment.run("hft", "list-plugins", "--json"))
    mine = [row for row in rows if row["provider"] == installed.folder.name]
    assert mine
    assert {(row["version"], row["state"]) for row in mine} == {(installed.project["version"], "ok")}
    names = {(row["seam"], row["name"]) for row in rows if row["provider"] == "hft-core"}
    assert not {(row["seam"], row["name"]) for row in mine} & names


def test_it_conforms(installed: Installed) -> None:
    report = json.loads(installed.environment.run("hft", "check-plugin", installed.folder.name, "--json"))
    assert report["fails"] == 0
    assert report["holds"] >= 10


def test_its_own_tests_pass(installed: Installed) -> None:
    """Beside them is what a test may read (the README), and not the sources: what is imported is what is installed."""
    place = installed.environment.folder / "own"
    sources = [path.name for path in installed.folder.glob("hft_*")]
    shutil.copytree(installed.folder, place, ignore=shutil.ignore_patterns("__pycache__", ".*", *sources))
    pytest_of = ("python", "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow")
    summary = installed.environment.run(*pytest_of, "--rootdir", place, place / "tests").splitlines()[-1]
    assert " passed" in summary, summary


def test_it_trains(installed: Installed) -> None:
    steps = json.loads(installed.environment.run("python", "-P", TRAIN_WITH, installed.folder.name))
    assert steps
    assert min(steps.values()) >= 1
