"""Own the paths, the lock and the files of a run's folder; light."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hft_core.errors import ModelError, UsageError
from hft_core.file_guard import special_file
from hft_core.pins import Pins
from hft_core.runtime import locks, run_manifest
from hft_core.runtime.files import json_document, read_json, sync, sync_tree, write_json, write_text
from hft_core.runtime.run_manifest import files_below
from hft_core.sanitize import without_controls, without_passwords

RECIPE_FILE, RESULTS_FILE, LOG_FILE, CARD_FILE = "recipe.yaml", "results.json", "log.jsonl", "README.md"
MANIFEST_FILE = "manifest.json"
MODEL_FOLDER, CHECKPOINT_FOLDER, COMBINER_FOLDER, PROFILE_FOLDER = "model", "checkpoints", "combiners", "profile"
PREDICTIONS_FOLDER = "predictions"
TRACKING_FOLDER = "tracking"
OUTPUTS = (
    RECIPE_FILE,
    RESULTS_FILE,
    LOG_FILE,
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_FOLDER,
    CHECKPOINT_FOLDER,
    COMBINER_FOLDER,
    PROFILE_FOLDER,
    PREDICTIONS_FOLDER,
    TRACKING_FOLDER,
)
"""Everything that a run writes into its folder."""
LOCK_FILE = ".lock"
PROVENANCE = ("seam", "name", "distribution", "version", "sha256")
"""What is recorded of each plugin that a run used; the last only for a plugin that is a single file."""


class RunFolder:
    """The folder of one run: where each file is, and how it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.results = path / RECIPE_FILE, path / RESULTS_FILE
        self.log, self.card, self.manifest = path / LOG_FILE, path / CARD_FILE, path / MANIFEST_FILE
        self.model, self.checkpoints = path / MODEL_FOLDER, path / CHECKPOINT_FOLDER
        self.combiners, self.profile = path / COMBINER_FOLDER, path / PROFILE_FOLDER
        self.predictions = path / PREDICTIONS_FOLDER
        self.tracking = path / TRACKING_FOLDER

    def best_weights(self, index: int, stage: str) -> Path:
        """The file of the best weights so far of the stage with this index and name."""
        return self.checkpoints / f"{index + 1}-{stage}.safetensors"

    def base_weights(self, index: int, stage: str) -> Path:
        """The file of the weights that the stage began with, where earlier stages changed them."""
        return self.checkpoints / f"{index + 1}-{stage}.base.safetensors"

    def combiner_state(self, index: int, stage: str) -> Path:
        """The file of what the stage's combiner learned."""
        return self.combiners / f"{index + 1}-{stage}.safetensors"

    def open(self, *, resume: bool) -> None:
        """Create the folder for a new run, or check that it holds one that can be resumed.

        Raises `UsageError` when the folder cannot be created or holds a run; with `resume`, when that run is finished.
        """
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output folder '{self.path}' cannot be made: {error.strerror}") from error
        for folder in missing:
            with suppress(OSError):  # a folder above that may not be read
                sync(folder.parent)
        if not resume or not self.recipe.exists():
            self.check_unused()
            return
        if self.results.exists():
            self.remove_checkpoints()  # the process may have been killed before it did so
            raise UsageError(f"the run in '{self.path}' is finished: there is nothing to resume")
        self._refuse_links()

    def recorded_recipe(self) -> str | None:
        """Return the text of the recipe that the folder's run has; None before a run has begun."""
        return self.recipe.read_text(encoding="utf-8") if self.recipe.is_file() else None

    def check_unused(self) -> None:
        """Raise `UsageError` when the folder holds anything that a run would write."""
        existing = [name for name in OUTPUTS if (self.path / name).exists() or (self.path / name).is_symlink()]
        if existing:
            raise UsageError(
                f"output folder '{self.path}' holds {', '.join(existing)} already: name another (a run overwrites "
                "nothing)"
            )

    def _refuse_links(self) -> None:
        """Raise `UsageError` for a symbolic link in the folder, through which writes would land elsewhere, and for a
        pipe or device, which would not be read to an end."""
        for parent, folders, files in os.walk(self.path):
            if self.tracking in Path(parent).parents:  # what a tracker keeps there is its own, such as links to logs
                folders.clear()
                continue
            for name in (*folders, *files):
                if (Path(parent) / name).is_symlink():
                    raise UsageError(
                        f"'{Path(parent) / name}' is a symbolic link: a run can be resumed only from files of its own"
                    )
                if problem := special_file(Path(parent) / name):
                    raise UsageError(problem)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; the system ends this when the process ends, however it ends.

        Raises `UsageError` when another run is in it, or when the folder cannot be written to.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locks.locked(self.path / LOCK_FILE))
            except locks.LockedError:
                raise UsageError(f"run folder '{self.path}' is in use by another run") from None
            except OSError as error:
                raise UsageError(f"run folder '{self.path}' cannot be written to: {error.strerror}") from error
            yield

    def write_recipe(self, text: str) -> None:
        """Write the recipe in full, which also marks the run as begun. Raises `RunError`."""
        write_text(self.recipe, text)

    def write_results(self, card: str, results: Mapping[str, Any]) -> None:
        """Write what is left of a finished run, see that all of it is on the disk, and remove the checkpoints.

        The manifest comes before the results, which mark the run as finished. Raises `RunError` and `OSError`.
        """
        write_text(self.card, without_passwords(without_controls(card)))
        for folder in self.own_folders():
            sync_tree(folder)
        self.sync_log()
        document = json_document(results)
        write_json(self.manifest, {"format": run_manifest.FORMAT, "files": self._file_facts(document)})
        write_text(self.results, document)
        self.remove_checkpoints()

    def _file_facts(self, results: str) -> dict[str, dict[str, Any]]:
        """Return size and hash of every file of a run whose results will be the text `results`."""
        paths = [self.recipe, self.card, *(path for folder in self.own_folders() for path in files_below(folder))]
        found = {path.relative_to(self.path).as_posix(): run_manifest.facts_of(path) for path in paths}
        found[RESULTS_FILE] = run_manifest.facts_of_text(results)
        if self.log.is_file():
            found[LOG_FILE] = {**run_manifest.facts_of(self.log), "grows": True}
        return dict(sorted(found.items()))

    def own_folders(self) -> tuple[Path, ...]:
        """Return the folders of a finished run in which all files are the run's own."""
        return (self.model, self.combiners, self.predictions)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints and all other weights that only training needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def remove_partial_model(self) -> None:
        """Remove what is left of a model and of answers whose writing was interrupted."""
        for folder in (self.model, self.predictions):
            shutil.rmtree(folder, ignore_errors=True)

    def remove_temporary_files(self) -> None:
        """Remove temporary files that a killed process left."""
        temporary = [
            path
            for name in (RECIPE_FILE, RESULTS_FILE, CARD_FILE, MANIFEST_FILE)
            for path in self.path.glob(f".{name}.*")
        ]
        for path in (*temporary, *self.combiners.glob(".*")):
            path.unlink(missing_ok=True)

    def log_size(self) -> int:
        """The log's size in bytes; 0 where there is none."""
        return self.log.stat().st_size if self.log.exists() else 0

    def sync_log(self) -> None:
        """Flush the log to the disk. Raises `OSError`."""
        if self.log.exists():
            sync(self.log)

    def truncate_log(self, size: int) -> None:
        """Cut the log to `size` bytes: a resumed run writes the rest again."""
        if self.log_size() > size:
            with open(self.log, "r+b") as file:
                file.truncate(size)

    def pins(self) -> Pins | None:
        """Return what the finished run was begun with; None where that was not recorded. Raises `ModelError` when its
        results are damaged."""
        try:
            record = read_json(self.results).get("pins")
            return None if record is None else Pins.from_json(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ModelError(f"{self.results} does not say what the run began with: {problem}") from error

    def model_digest(self) -> str:
        """Return a hash of the finished run's recipe and model files, as its manifest lists them: copies of a run have
        the same. Raises `ModelError` for a folder without them."""
        try:
            if self.manifest.exists():
                listed = run_manifest.read(self.manifest)
            else:  # of an hft that wrote none
                paths = [self.recipe, *files_below(self.model)]
                listed = {path.relative_to(self.path).as_posix(): run_manifest.facts_of(path) for path in paths}
        except (OSError, ValueError) as error:
            raise ModelError(f"{self.path}: its model cannot be identified: {' '.join(str(error).split())}") from error
        own = sorted(name for name in listed if name == RECIPE_FILE or name.startswith(f"{MODEL_FOLDER}/"))
        return hashlib.sha256("".join(f"{listed[name]['sha256']} {name}\n" for name in own).encode()).hexdigest()

    def plugins(self) -> list[dict[str, str]]:
        """Return where the plugins of the finished run came from. Raises `ModelError` when its results are damaged."""
        try:
            record = read_json(self.results)["plugins"]
            return [
                {key: str(used.get(key, "") if key == "sha256" else used[key]) for key in PROVENANCE} for used in record
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise ModelError(f"{self.results} does not say which plugins the run used: {problem}") from error
