"""Publish a finished run on a model hub: its model and card, and nothing of its data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from hft_core.errors import ModelError, RunError, UsageError
from hft_core.runtime.run_check import check_run
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.run_manifest import files_below
from hft_core.sanitize import without_passwords

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Upload:
    """What of a run would be published."""

    folder: Path
    files: tuple[str, ...]
    """Paths in the run's folder, which are those in the repository."""
    left_out: tuple[str, ...]
    """What else is in the folder: recipe, results and log (paths and rows of this machine), answers, data."""
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum((self.folder / file).stat().st_size for file in self.files)


def upload_of(folder: Path) -> Upload:
    """List what of the finished run in `folder` would be published: card, model and combiner state.

    Raises `ModelError` when the run is not finished, or its files are not as they were written.
    """
    found = check_run(folder)
    if not found.finished:
        raise ModelError(f"{folder} is not a finished run: only a finished one can be published")
    if found.problems:
        first = found.problems[0]
        raise ModelError(
            f"{folder}: {first.file} {first.problem}, so that nothing is published ('hft check' lists all)"
        )
    run = RunFolder(folder)
    paths = [run.card, *files_below(run.model), *files_below(run.combiners)]
    kept = {path.relative_to(folder).parts[0] for path in paths}
    rest = sorted(path.name for path in folder.iterdir() if path.name not in kept)
    files = tuple(path.relative_to(folder).as_posix() for path in paths)
    return Upload(folder, files, tuple(rest), tuple(_lost_bases(run)))


def push(upload: Upload, repository: str, *, private: bool = True, pull_request: bool = False) -> str:
    """Commit the files to the model repository, which is created if it does not exist; return the commit's address.

    Raises `RunError` with what the hub says.
    """
    api = HfApi()
    added = [CommitOperationAdd(file, _content(upload.folder, file, repository)) for file in upload.files]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        made = api.create_commit(
            repository, added, commit_message="Add a run of hft", create_pr=True if pull_request else None
        )
    except (HfHubHTTPError, OSError) as error:
        raise RunError(f"{repository}: {without_passwords(' '.join(str(error).split()))}") from error
    return str(made.pr_url or made.commit_url)


def check_name(repository: str) -> None:
    """Raise `UsageError` unless `repository` has the form OWNER/NAME."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UsageError(f"--repo {repository}: {' '.join(str(error).split())}") from error
    if repository.count("/") != 1:
        raise UsageError(f"--repo {repository}: expected OWNER/NAME")


def _content(folder: Path, file: str, repository: str) -> Path | bytes:
    """Return a file as it is published: an adapter names no folder of this machine as its base."""
    path = folder / file
    base = _base(path)
    if not base or not Path(base).is_absolute():
        return path
    own = Path(base).resolve().is_relative_to(folder.resolve())
    config = json.loads(path.read_text(encoding="utf-8"))
    config[BASE] = repository if own else Path(base).name
    return (json.dumps(config, indent=2) + "\n").encode()


def _base(path: Path) -> str:
    """Return the base model that an adapter's configuration names; nothing for other files."""
    if path.name != ADAPTER_CONFIG:
        return ""
    return str(json.loads(path.read_text(encoding="utf-8")).get(BASE) or "")


def _lost_bases(run: RunFolder) -> list[str]:
    """Describe the adapters whose base model is on this machine and is not published with them."""
    bases = {_base(path) for path in run.model.glob(f"*/{ADAPTER_CONFIG}")}
    return [
        f"the adapters belong on '{base}', which is on this machine alone: publish it too, and name it in the card"
        for base in sorted(bases)
        if base and Path(base).is_absolute() and not Path(base).resolve().is_relative_to(run.path.resolve())
    ]
