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


def commands() -> list[str]:
    shell = "".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    return [line for line in shell.splitlines() if line.startswith("hft ")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The page's files, its package installed, and an encoder."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, content in re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("hft_test_models", ROOT / "tests" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    toys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toys)
    reader = Reader(folder, Path(toys.Models(folder / "models")["bert"]))
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    reader.run(sys.executable, *install, "--target", str(reader.site), "./hft-biases")
    return reader


def test_the_tutorials_code_is_short() -> None:
    code = re.findall(r"^`hft-biases/[\w./-]+`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code) == 3
    assert sum(1 for file in code for line in file.splitlines() if line.strip()) <= 55


def test_the_package_is_listed_and_described(reader: Reader) -> None:
    listed = {row["name"]: row for row in json.loads(reader.hft("hft list-plugins --seam strategy --json"))}
    biases = listed["biases"]
    assert (biases["provider"], biases["version"], biases["state"]) == ("hft-biases", "0.1", "ok")
    assert "norms" in reader.hft(next(line for line in commands() if line == "hft describe strategy biases"))


def test_it_trains_and_the_run_says_who_took_part(reader: Reader) -> None:
    (line,) = [line for line in commands() if line.startswith("hft run")]
    reader.hft(line)
    results = json.loads((reader.folder / "runs" / "biases" / "results.json").read_text())
    (stage,) = results["stages"]
    assert (stage["strategy"], stage["steps"]) == ("biases", 2)
    assert 0 < stage["trainable"] < 0.2 * stage["trunk"]
    assert {"hft-biases", "hft-core"} == {plugin["distribution"] for plugin in results["plugins"]}


def test_validate_shows_how_few_parameters_train(reader: Reader) -> None:
    (line,) = [line for line in commands() if line.startswith("hft validate")]
    outlook = json.loads(reader.hft(f"{line} --json"))
    (stage,) = outlook["stages"]
    assert 0 < stage["trainable"] < 0.2 * stage["trunk"]


def test_the_same_code_in_one_file_needs_no_package(reader: Reader) -> None:
    package = reader.folder / "hft-biases" / "hft_biases"
    one_file = (package / "__init__.py").read_text() + (package / "biases.py").read_text()
    file = reader.folder / "alone" / "biases.py"
    file.parent.mkdir()
    file.write_text(one_file.replace("hft_biases.biases:", "biases:"))
    (line,) = [line for line in commands() if "--plugin" in line]
    shown = reader.hft(line.replace("biases.py", "alone/biases.py") + " --block hft-biases")
    assert "alone/biases.py" in shown
    assert "norms" in shown
