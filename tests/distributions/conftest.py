"""The distribution as a user gets it: built from a copy of the tree, installed in environments of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IN_THE_TREE = ("hft_core", "plugins", "docs", "tests", ".ci")
pytest.importorskip("build", reason="the tests of the distribution build it")
pytest.importorskip("hatchling", reason="the tests of the distribution build it without a network")


OWN_VARIABLES = ("PYTHONPATH", "PYTEST_ADDOPTS", "HFT_ALLOW", "HFT_BLOCK", "PIP_CONSTRAINT")
"""Of the process that runs the tests."""


def call(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of this process's paths."""
    kept = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=kept | environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Environment:
    """A virtual environment that also sees the packages of the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        self.bin = folder / "venv" / "bin"
        self.site = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        # Packages named in a .pth file come after the environment's own, and their own .pth files are not read: an
        # editable install of hft-core over there is not seen here.
        (self.site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def install(self, *what: object) -> None:
        """Install without a network and without dependencies, which are there already."""
        flags = (
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--force-reinstall",
            "--no-warn-script-location",
        )
        call(sys.executable, "-m", "pip", "--python", self.bin / "python", "install", *flags, *what, cwd=self.folder)

    def run(self, command: str, *arguments: object, **environment: str) -> str:
        """What a command of the environment prints."""
        return call(self.bin / command, *arguments, cwd=self.folder, **environment).stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, as a clone would have them."""
    copy = tmp_path_factory.mktemp("clone") / "hft"
    copy.mkdir()
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in IN_THE_TREE:
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, copy / path.name)
    (copy / "contrib").mkdir()
    return copy


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """A function that builds the `wheel` or `sdist` of a folder."""

    def built(kind: str, source: Path) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        call(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", folder, source, cwd=folder)
        (made,) = folder.iterdir()
        return made

    return built


@pytest.fixture(scope="session")
def wheel(build: Callable[[str, Path], Path], tree: Path) -> Path:
    return build("wheel", tree)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


@pytest.fixture(scope="session")
def make_environment() -> Callable[[Path], Environment]:
    """A function that makes an environment in a folder, for tests that share one."""
    return Environment
