"""Find the runs under one folder, and keep every path inside of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hft_core.errors import UsageError
from hft_core.runtime.run_folder import CHECKPOINT_FOLDER, LOG_FILE, MODEL_FOLDER, RECIPE_FILE
from hft_core.ui.run_process import PROCESS_FILE

DEEPEST = 3
"""Levels of folders below the workspace that are searched for runs."""
MOST_FILES, MOST_RUNS = 500, 500
DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".txt", ".conll")


class Workspace:
    """A folder with runs. Nothing outside of it, and of further folders that are allowed, is read or written."""

    def __init__(self, root: Path, allowed: Sequence[Path] = ()) -> None:
        self.root = root.resolve()
        self._allowed = (self.root, *(path.resolve() for path in allowed))

    def runs(self) -> list[str]:
        """Return the runs as paths below the root, the latest first."""
        found = [(os.stat(folder).st_mtime, folder) for folder in self._folders() if is_run(folder)]
        return [folder.relative_to(self.root).as_posix() for _, folder in sorted(found, reverse=True)[:MOST_RUNS]]

    def folder(self, name: str) -> Path:
        """Return the folder of a run by its path below the root. Raises `UsageError` where it is none, or outside."""
        path = self._inside(name)
        if not path.is_dir() or not is_run(path):
            raise UsageError(f"there is no run '{name}'")
        return path

    def new_folder(self, name: str) -> Path:
        """Return the folder of a run to be made. Raises `UsageError` for a name that leads elsewhere, or is taken."""
        if not name or name != name.strip() or name.startswith((".", "/", "-")) or set(name) & set('\\:*?"<>|\0\n'):
            raise UsageError(f"'{name}' cannot be the name of a run: expected letters, digits, '-', '_' or '/'")
        path = self._inside(name)
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"there is a folder '{name}' already: give another name (a run overwrites nothing)")
        return path

    def data_files(self) -> list[str]:
        """Return data files below the root, as paths that a recipe there may give."""
        found = []
        for folder in self._folders():
            if not is_run(folder):
                with os.scandir(folder) as entries:
                    found += [
                        e.path for e in entries if e.is_file(follow_symlinks=False) and e.name.endswith(DATA_SUFFIXES)
                    ]
        return sorted(Path(path).relative_to(self.root).as_posix() for path in found[:MOST_FILES])

    def check_paths(self, recipe: Any, place: str = "") -> None:
        """Raise `UsageError` for a text anywhere in a recipe that is a path to the outside, or a URL."""
        if isinstance(recipe, dict):
            for key, value in recipe.items():
                self.check_paths(value, f"{place}.{key}".lstrip("."))
        elif isinstance(recipe, list):
            for i, value in enumerate(recipe):
                self.check_paths(value, f"{place}[{i}]")
        elif isinstance(recipe, str) and not self._is_inside(recipe):
            raise UsageError(
                f"{place}: '{recipe}' is outside of '{self.root}'; expected a path in it, or in a folder of --allow"
            )

    def _is_inside(self, text: str) -> bool:
        if "://" in text:
            return False
        try:
            path = (self.root / os.path.expanduser(text)).resolve()
        except (OSError, ValueError, RuntimeError):  # no path at all
            return True
        return any(path.is_relative_to(folder) for folder in self._allowed)

    def _inside(self, name: str) -> Path:
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError) as error:
            raise UsageError(f"'{name}' is no path") from error
        if path == self.root or not path.is_relative_to(self.root):
            raise UsageError(f"'{name}' is outside of the folder of runs")
        return path

    def _folders(self) -> Iterator[Path]:
        """Yield the root and the folders below it; not what is inside of a run, hidden, or a link."""
        level = [self.root]
        for _ in range(DEEPEST + 1):
            following: list[Path] = []
            for folder in level:
                yield folder
                if folder != self.root and is_run(folder):
                    continue
                try:
                    entries = list(os.scandir(folder))
                except OSError:
                    continue
                following += [
                    Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")
                ]
            level = following


def is_run(folder: Path) -> bool:
    """Return whether a run has begun in the folder."""
    names = (RECIPE_FILE, LOG_FILE)
    return (
        (folder / PROCESS_FILE).is_file()
        or all((folder / name).is_file() for name in names)
        or ((folder / RECIPE_FILE).is_file() and any((folder / n).is_dir() for n in (MODEL_FOLDER, CHECKPOINT_FOLDER)))
    )


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
