"""Fake installed distributions, made of files, so that discovery meets what it meets in a real environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

COMBINER = """
from hft_core import CombinerSpec, hookimpl

@hookimpl
def hft_combiners():
    return [CombinerSpec(name="{name}", summary="A combiner", factory="{implementation}:build",
                         options="{implementation}:Options")]
"""
IMPLEMENTATION = """
from pydantic import BaseModel, ConfigDict, Field

class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")
    strength: float = Field(0.5, gt=0, description="How strongly it pulls")
    steps: int = Field(description="How many steps it takes")

def build(options, *, tasks):
    return ("built", options.strength, tuple(tasks))
"""


class Site:
    """A folder like `site-packages`, and the command line run with it."""

    implementation = IMPLEMENTATION

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: list[str] = []

    def combiner(self, name: str, implementation: str) -> str:
        """The code of a light module with one combiner, implemented in the module `implementation`."""
        return COMBINER.format(name=name, implementation=implementation)

    def add(self, distribution: str, files: dict[str, str], *, version: str = "0.1", entries: str = "") -> None:
        """Install `distribution`: its `files` by path, and its entry points, one `name = module` a line."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
            self.packages.append(Path(name).parts[0].removesuffix(".py"))
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[hft]\n{dedent(entries).strip()}\n")

    def add_combiner(self, distribution: str, name: str, *, version: str = "0.1") -> str:
        """Install a distribution with one working combiner; returns its package's name."""
        module = re.sub(r"\W", "_", distribution).lower()
        light = self.combiner(name, f"{module}.impl")
        files = {f"{module}/__init__.py": light, f"{module}/impl.py": self.implementation}
        self.add(distribution, files, version=version, entries=f"combiners = {module}")
        return module

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the folder on its path."""
        path = os.pathsep.join([str(self.folder), str(ROOT), str(ROOT / "plugins")])
        kept = {k: v for k, v in os.environ.items() if k not in ("HFT_ALLOW", "HFT_BLOCK")}
        env = kept | {"PYTHONPATH": path} | environment
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=env, cwd=self.folder
        )

    def hft(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.python("-m", "hft_core", *arguments, **environment)

    def listed(self, *arguments: str, **environment: str) -> list[dict[str, Any]]:
        """What `hft list-plugins --json` lists."""
        done = self.hft("list-plugins", "--json", *arguments, **environment)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder of distributions, first on this process's path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delenv("HFT_BLOCK", raising=False)
    site = Site(folder)
    yield site
    for module in [name for name in sys.modules if name.partition(".")[0] in site.packages]:
        del sys.modules[module]
