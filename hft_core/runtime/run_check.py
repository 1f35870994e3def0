"""Check the files of a run against its manifest, and those of an unfinished run's checkpoints; light."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hft_core.errors import ModelError
from hft_core.runtime import run_manifest
from hft_core.runtime.run_folder import MANIFEST_FILE, RunFolder


@dataclass(frozen=True, kw_only=True)
class FileProblem:
    """What is wrong with one file of a run."""

    file: str
    """Its path in the run's folder."""
    problem: str
    """What is wrong, as the end of a sentence that begins with the file."""


@dataclass(frozen=True, kw_only=True)
class RunCheck:
    """What `check_run` found."""

    folder: Path
    finished: bool
    """Whether the run is finished; of another one its checkpoints were checked."""
    files: int
    """Number of files that were read."""
    problems: tuple[FileProblem, ...]
    """What is wrong; empty for a sound run."""


def check_run(folder: str | Path) -> RunCheck:
    """Check every file of the run in `folder`.

    Of a finished run: each file is as its manifest says, valid JSON or safetensors, and the model's folder has no
    others. Of an unfinished one: each checkpoint is as its own manifest says. Raises `ModelError` where there is no
    run.
    """
    run = RunFolder(Path(folder))
    if not run.path.is_dir():
        raise ModelError(f"{folder}: no such run folder")
    if not run.recipe.exists() and not run.results.exists():
        raise ModelError(f"{folder} holds no run: it has no {run.recipe.name}")
    if run.results.exists() or run.manifest.exists():
        checked = [*_finished(run)]
    else:
        checked = [found for place in _checkpoints(run) for found in _listed(run.path, place)]
    problems = tuple(FileProblem(file=file, problem=problem) for file, problem in checked if problem)
    return RunCheck(folder=run.path, finished=run.results.exists(), files=len(checked), problems=problems)


def _finished(run: RunFolder) -> Iterator[tuple[str, str]]:
    """Yield each file of a finished run, with what is wrong with it."""
    if run.manifest.exists():
        yield from _listed(run.path, run.path, run.own_folders())
        return
    yield MANIFEST_FILE, "is missing, so that files can be read and not compared"
    paths = (
        run.recipe,
        run.results,
        run.card,
        *(f for own in run.own_folders() for f in run_manifest.files_below(own)),
    )
    for path in paths:
        yield path.relative_to(run.path).as_posix(), run_manifest.problem_of(path)


def _listed(root: Path, folder: Path, own: Iterable[Path] | None = None) -> Iterator[tuple[str, str]]:
    """Yield each file that the manifest of `folder` lists, and each other one below the folders `own`.

    A file is given by its path below `root`, with what is wrong with it.
    """
    manifest = folder / MANIFEST_FILE
    shown = folder.relative_to(root)
    try:
        listed = run_manifest.read(manifest)
    except (OSError, ValueError) as error:
        yield (shown / MANIFEST_FILE).as_posix(), f"cannot be read: {' '.join(str(error).split())}"
        return
    for name, facts in listed.items():
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        problem = run_manifest.problem_of(folder / name, facts) if inside else "is outside of the folder"
        yield (shown / name).as_posix(), problem
    for path in (path for place in (own or [folder]) for path in run_manifest.files_below(place)):
        name = path.relative_to(folder).as_posix()
        if name not in listed and path != manifest:
            yield (shown / name).as_posix(), "was not written by the run"


def _checkpoints(run: RunFolder) -> list[Path]:
    """Return the folders of an unfinished run's checkpoints."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(path for path in run.checkpoints.iterdir() if path.is_dir() and not path.name.startswith("."))
