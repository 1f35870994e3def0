"""Write checkpoints atomically, and find the newest intact one.

A checkpoint is written to a temporary folder, every file is synced, a manifest with sizes and hashes comes last, and a
rename publishes it; only then are older ones removed. Tensors are safetensors, all else is JSON: nothing in it is code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core.errors import RunError, UsageError
from hft_core.runtime.files import file_hash, follow_umask, read_json, sync, write_text
from hft_core.training.training_state import TrainingState

FORMAT = 6
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "LATEST"
_BEFORE = "~"
"""Suffix of a checkpoint's name while another one replaces it."""
_NAME = re.compile(rf"\d{{4}}-\d{{8}}{_BEFORE}?")


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint."""

    path: Path
    state: TrainingState

    @property
    def step(self) -> int:
        """The last finished step of its stage."""
        return self.state.loop.progress.step

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors that were saved under `name`, if any."""
        file = self.path / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, *, recipe: str, limit: int) -> None:
        """`recipe`: the hash of the run's recipe; `limit`: how many are kept."""
        self.folder, self.recipe, self.limit = folder, recipe, limit
        self._known: dict[tuple[int, int], str] = {}

    def publish(
        self,
        world_size: int,
        state: TrainingState,
        tensors: Mapping[str, Mapping[str, Tensor]],
        links: Mapping[str, Path],
    ) -> float:
        """Write a checkpoint that `world_size` processes computed, and return the seconds it took.

        `links`: tensor files to include unchanged, as hard links where possible.

        Raises `RunError` when it cannot be written; earlier ones are left as they are.
        """
        started = time.perf_counter()
        stage, step = state.stage.index, state.loop.progress.step
        name = f"{stage:04d}-{step:08d}"
        position = {"stage": stage, "step": step, "world_size": world_size}
        beside = self.folder / f".{name}.{uuid.uuid4().hex[:8]}"
        try:
            beside.mkdir(parents=True)
            sync(self.folder.parent)  # the log is in it too
            self._fill(beside, position, state.to_json(), tensors, links)
            self._put(beside, self.folder / name)
            write_text(self.folder / LATEST, name + "\n")
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            last = self._names()
            rest = f"; the last good one is {last[0]}" if last else ""
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"{self.folder}: a checkpoint cannot be written: {reason}{rest}") from error
        # Those with a later name are damaged: the run was resumed from one before them.
        good = [each for each in self._names() if each <= name]
        for old in set(self._names()) - set(good[: self.limit]):
            self._remove(self.folder / old)
        return time.perf_counter() - started

    def _fill(
        self,
        beside: Path,
        position: Mapping[str, int],
        state: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        links: Mapping[str, Path],
    ) -> None:
        files = {}
        for name, part in tensors.items():
            if part:
                path = beside / f"{name}.safetensors"
                save_file({key: tensor.detach().to("cpu").contiguous() for key, tensor in part.items()}, path)
                follow_umask(path)
                sync(path)
                files[path.name] = path
        for name, source in links.items():
            path = beside / f"{name}.safetensors"
            try:
                os.link(source, path)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, path)
                sync(path)
            files[path.name] = path
        (beside / STATE).write_text(json.dumps(state), encoding="utf-8")
        sync(beside / STATE)
        files[STATE] = beside / STATE
        manifest = {
            "format": FORMAT,
            "recipe": self.recipe,
            **position,
            "files": {name: {"size": path.stat().st_size, "sha256": self._hash(path)} for name, path in files.items()},
        }
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        sync(beside / MANIFEST)
        sync(beside)

    def _hash(self, path: Path) -> str:
        """Return the file's hash; a file that is linked into several checkpoints is read once."""
        status = path.stat()
        key = (status.st_ino, status.st_mtime_ns)
        if status.st_nlink == 1 or key not in self._known:
            self._known[key] = file_hash(path)
        return self._known[key]

    def _put(self, beside: Path, place: Path) -> None:
        """Publish a checkpoint. One of the same step (damaged, or saved before a resume) keeps another name until then,
        so that one exists at every moment."""
        before = place.with_name(place.name + _BEFORE)
        if place.exists():
            if before.exists():
                self._remove(before)
            os.rename(place, before)
        os.rename(beside, place)
        sync(self.folder)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint such that no half of it is ever seen under its name."""
        away = self.folder / f".{path.name}.{uuid.uuid4().hex[:8]}"
        os.rename(path, away)
        shutil.rmtree(away, ignore_errors=True)

    def newest(self, report: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest intact checkpoint, or None if there are none; `report` is called for damaged ones.

        Raises `UsageError` when all are damaged, or when the newest intact one belongs to another recipe.
        """
        problems = []
        for name in self._names():
            path = self.folder / name
            try:
                return self._checked(path)
            except _DamagedError as error:
                problems.append(f"{path}: {error}")
                report(f"checkpoint {name} is not used: {error}")
        if problems:
            raise UsageError(
                f"no checkpoint in {self.folder} can be used ({problems[0]}); remove that folder to start the run anew"
            )
        return None

    def clear_leftovers(self) -> None:
        """Remove everything that is no checkpoint: temporary folders of interrupted writes, and files that a stage
        writes again or restores from its checkpoint."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name == LATEST or _NAME.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        """Return the names of checkpoints, the newest first; of two of the same step, the one to keep first."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(names, key=lambda name: (name.removesuffix(_BEFORE), not name.endswith(_BEFORE)), reverse=True)

    def _checked(self, path: Path) -> Checkpoint:
        """Return a checkpoint after checking its files against the manifest."""
        manifest = _manifest_of(path)
        try:
            files = {str(name): (facts["size"], facts["sha256"]) for name, facts in manifest["files"].items()}
            recipe = manifest["recipe"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _DamagedError(f"its manifest cannot be read ({type(error).__name__})") from error
        for name, (size, digest) in files.items():
            file = path / name
            if Path(name).name != name or not file.is_file():
                raise _DamagedError(f"its file {name} is missing")
            if file.stat().st_size != size or file_hash(file) != digest:
                raise _DamagedError(f"its file {name} is not as it was written")
        if recipe != self.recipe:
            raise UsageError(
                f"{path} belongs to another recipe than the one given: resume it with its own, or start anew"
            )
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return Checkpoint(path, TrainingState.from_json(state))


class _DamagedError(Exception):
    """A checkpoint is not intact."""


def _manifest_of(path: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint of this format."""
    try:
        manifest: dict[str, Any] = read_json(path / MANIFEST)
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _DamagedError(f"its manifest cannot be read ({type(error).__name__})") from error
    if version != FORMAT:
        raise _DamagedError(f"it has format {version}, and this hft reads format {FORMAT}")
    return manifest
