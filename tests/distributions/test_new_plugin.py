"""What `hft new-plugin` writes is built, installed beside the core's wheel, checked, tested and trained with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hft_core.specs import SEAMS

if TYPE_CHECKING:
    from tests.distributions.conftest import Environment

pytestmark = pytest.mark.slow
TRAIN_WITH = Path(__file__).with_name("train_with.py")


@pytest.fixture(scope="module")
def with_all(
    make_environment: Callable[[Path], Environment],
    wheel: Path,
    build: Callable[[str, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Environment:
    """One new package of each seam, all in one environment; the command that wrote them is the wheel's."""
    environment = make_environment(tmp_path_factory.mktemp("new-plugins"))
    environment.install(wheel)
    for seam in SEAMS:
        environment.run("hft", "new-plugin", seam, f"try-{seam}")
    environment.install(*(build("wheel", environment.folder / f"hft-try-{seam}") for seam in SEAMS))
    return environment


def test_each_is_listed_as_its_own(with_all: Environment) -> None:
    rows = json.loads(with_all.run("hft", "list-plugins", "--json"))
    mine = {(row["seam"], row["name"], row["provider"], row["state"]) for row in rows if "-try-" in row["provider"]}
    assert mine == {(seam, f"try-{seam}", f"hft-try-{seam}", "ok") for seam in SEAMS}


@pytest.mark.parametrize("seam", SEAMS)
def test_it_conforms_by_the_command_and_by_its_own_test(seam: str, with_all: Environment) -> None:
    report = json.loads(with_all.run("hft", "check-plugin", f"hft-try-{seam}", "--json"))
    assert (report["fails"], report["holds"] >= 10) == (0, True)
    tests = with_all.folder / f"hft-try-{seam}" / "tests"
    summary = with_all.run("python", "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", tests).splitlines()[-1]
    assert summary.startswith(f"{report['holds']} passed"), summary


@pytest.mark.parametrize("seam", SEAMS)
def test_it_trains(seam: str, with_all: Environment) -> None:
    steps = json.loads(with_all.run("python", "-P", TRAIN_WITH, f"hft-try-{seam}"))
    assert steps == {f"{seam}-try-{seam}": 2}
