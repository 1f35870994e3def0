"""Import a package that is not installed: put its folder on `sys.path`, with the metadata that pip would write."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from hft_core.errors import PluginError
from hft_core.hooks import GROUP


@dataclass(frozen=True)
class SourceFolder:
    """A distribution's sources."""

    distribution: str
    version: str
    entry_points: Mapping[str, str]
    """Modules by entry point."""
    path: tuple[Path, ...]
    """The folders to import from."""

    @classmethod
    def read(cls, folder: Path) -> SourceFolder:
        """Read a project with a `pyproject.toml`, or a bare package.

        Raises `PluginError` when the folder is neither, or its project has no entry points for hft.
        """
        if not folder.is_dir():
            raise PluginError(f"'{folder}': no such folder")
        folder = folder.resolve()
        if (folder / "pyproject.toml").is_file():
            return cls._of_project(folder)
        if (folder / "__init__.py").is_file():
            name = canonicalize_name(folder.name)
            return cls(name, "", {name: folder.name}, (folder.parent,))
        raise PluginError(
            f"folder '{folder}': expected a pyproject.toml or the __init__.py of a package; found neither"
        )

    @classmethod
    def _of_project(cls, folder: Path) -> SourceFolder:
        file = folder / "pyproject.toml"
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PluginError(f"{file} cannot be read: {error}") from error
        project = _table(content, "project")
        points = _table(_table(project, "entry-points"), GROUP)
        if not points:
            raise PluginError(f"{file}: expected entry points under [project.entry-points.{GROUP}]; found none")
        name = str(project.get("name", folder.name))
        places = (folder, folder / "src")
        return cls(
            name,
            str(project.get("version", "")),  # it may be known to the build alone
            {key: str(module) for key, module in points.items()},
            tuple(place for place in places if place.is_dir()),
        )


@contextmanager
def importable(source: SourceFolder) -> Iterator[None]:
    """Make the sources importable within the block as an installed distribution, ahead of one of the same name."""
    before = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="hft-") as place:
        version = source.version or "0"
        info = Path(place) / f"{canonicalize_name(source.distribution).replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {source.distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        points = "".join(f"{name} = {module}\n" for name, module in source.entry_points.items())
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{points}", encoding="utf-8")
        sys.path[:0] = [place, *map(str, source.path)]
        try:
            yield
        finally:
            sys.path[:] = before


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name, {})
    return found if isinstance(found, Mapping) else {}
