"""`docs/tutorials/your-first-plugin.md`, done as it says, with a tiny encoder."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hft_core.plugins.catalogue import Catalogue

pytest.importorskip("hatchling", reason="the tutorial's package is built without a network")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "your-first-plugin.md").read_text(encoding="utf-8")


class Reader:
    """A folder in which the tutorial's commands are typed."""

    def __init__(self, folder: Path, encoder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        # What is installed comes before the environment's packages, and hft is run from the source tree.
        path = [str(self.site), str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "ENCODER": str(encoder), "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            arguments, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def hft(self, line: str) -> str:
        """Run one command as the page has it."""
        return self.run("bash", "-c", line.replace("hft ", f"'{sys.executable}' -m hft_core ", 1))


FILES = re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
"""Paths and contents of the files that the page lets its reader write."""
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ").splitlines()
"""Every line that the page lets its reader type."""


def commands(start: str = "hft ") -> list[str]:
    return [line for line in SHELL if line.startswith(start)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The page's files, its package installed, and an encoder."""
    folder = tmp_path_factory.mktemp("tutorial")
    reader = Reader(folder, Path(encoder(folder)))
    reader.run("bash", "-c", SHELL[0])
    for name, content in FILES:
        (folder / name).write_text(content, encoding="utf-8")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    reader.run(sys.executable, *install, "--target", str(reader.site), "./hft-biases")
    return reader


def encoder(folder: Path) -> str:
    spec = importlib.util.spec_from_file_location("hft_test_models", ROOT / "tests" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    toys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toys)
    model: str = toys.Models(folder / "models")["bert"]
    return model


def test_from_mkdir_to_a_strategy_that_is_checked_and_installed_are_about_forty_lines() -> None:
    assert SHELL[0].startswith("mkdir ")
    files = {name: content.splitlines() for name, content in FILES if name.startswith("hft-biases/")}
    assert set(files) == {
        "hft-biases/pyproject.toml",
        "hft-biases/hft_biases/__init__.py",
        "hft-biases/hft_biases/biases.py",
        "hft-biases/tests/test_conformance.py",
    }
    typed = SHELL[: SHELL.index("pip install --editable ./hft-biases") + 1]
    assert sum(1 for lines in (*files.values(), typed) for line in lines if line.strip()) <= 44


def test_the_strategy_is_not_called_like_a_built_in_one() -> None:
    built_in = Catalogue.discover(block=["hft-biases"]).seam("strategy")
    assert "bitfit" in {entry.name for entry in built_in}
    assert "biases" not in {entry.name for entry in built_in}


def test_the_package_conforms_before_it_is_installed(reader: Reader) -> None:
    assert SHELL.index("hft check-plugin ./hft-biases") < SHELL.index("pip install --editable ./hft-biases")
    assert_holds(reader.hft("hft check-plugin ./hft-biases"))


@pytest.mark.slow
def test_its_own_test_passes_where_it_is_installed(reader: Reader) -> None:
    done = reader.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "hft-biases/tests")
    assert re.search(r"^\d+ passed, \d+ skipped in", done, re.MULTILINE), done


def test_one_command_writes_such_a_package(reader: Reader) -> None:
    (line,) = commands("hft new-plugin")
    assert line == "hft new-plugin strategy mine"
    assert "hft check-plugin ./hft-mine" in SHELL
    reader.hft(line)
    written = {path.name for path in (reader.folder / "hft-mine").rglob("*") if path.is_file()}
    assert written == {"pyproject.toml", "README.md", "__init__.py", "strategy.py", "test_conformance.py"}


def test_the_package_is_listed_and_described(reader: Reader) -> None:
    listed = {row["name"]: row for row in json.loads(reader.hft("hft list-plugins --seam strategy --json"))}
    biases = listed["biases"]
    assert (biases["provider"], biases["version"], biases["state"]) == ("hft-biases", "0.1", "ok")
    assert "norms" in reader.hft(next(line for line in commands() if line == "hft describe strategy biases"))


def test_it_trains_and_the_run_says_who_took_part(reader: Reader) -> None:
    (line,) = commands("hft run")
    reader.hft(line)
    results = json.loads((reader.folder / "runs" / "biases" / "results.json").read_text())
    (stage,) = results["stages"]
    assert (stage["strategy"], stage["steps"]) == ("biases", 2)
    assert 0 < stage["trainable"] < 0.2 * stage["trunk"]
    assert {"hft-biases", "hft-core"} == {plugin["distribution"] for plugin in results["plugins"]}


def test_validate_shows_how_few_parameters_train(reader: Reader) -> None:
    (line,) = commands("hft validate")
    outlook = json.loads(reader.hft(f"{line} --json"))
    (stage,) = outlook["stages"]
    assert 0 < stage["trainable"] < 0.2 * stage["trunk"]


def test_the_same_code_in_one_file_needs_no_package(reader: Reader) -> None:
    package = reader.folder / "hft-biases" / "hft_biases"
    one_file = (package / "__init__.py").read_text() + (package / "biases.py").read_text()
    (reader.folder / "biases.py").write_text(one_file.replace("hft_biases.biases:", "biases:"))
    (line,) = [line for line in commands("hft describe") if "--plugin" in line]
    shown = reader.hft(line)
    assert "provider: biases.py" in " ".join(shown.split())
    assert "norms" in shown
    (line,) = commands("hft check-plugin biases.py")
    assert_holds(reader.hft(line))


def assert_holds(report: str) -> None:
    """Some twenty checks, none of which fails."""
    summary = re.search(r"^(\d+) hold, (\d+) not claimed, 0 fail, in ", report, re.MULTILINE)
    assert summary, report
    assert 18 <= sum(map(int, summary.groups())) <= 30
