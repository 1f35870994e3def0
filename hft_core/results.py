"""What a run found, as typed values and as `results.json`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hft_core.errors import ModelError, RunError, UsageError
from hft_core.sanitize import json_text

Scores = dict[str, dict[str, float]]
"""Metric values by task, then by metric name."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The dev scores of a stage's tasks at one moment."""

    step: int
    epoch: float
    scores: Scores
    score: float | None
    """What the best weights are chosen by (higher is better); None where nothing can be measured."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage: what it cost and what it changed."""

    name: str
    tasks: tuple[str, ...]
    strategy: str
    combiner: str
    steps: int
    """Steps done."""
    best_step: int
    """The step whose weights the stage ends with."""
    stopped_early: bool
    learning_rate: float
    head_learning_rate: float
    head_warmup_steps: int
    trainable: int
    """Trunk parameters that trained."""
    trunk: int
    """Trunk parameters in all, without what the strategy added."""
    heads: int
    """Head parameters that trained."""
    before: Scores
    """Dev scores before the stage of all tasks that could be measured."""
    after: Scores
    """Dev scores of the same tasks, and of the stage's own, with the weights that the stage ends with."""
    main_metrics: dict[str, str]
    """The main metric of each task in `after`."""
    history: tuple[Evaluation, ...]
    rows: int
    tokens: int
    rows_per_s: float
    tokens_per_s: float
    """Real tokens, without padding, in a second of training."""
    precision: str
    """The number format of the trunk's products, `fp32` or `bf16`."""
    precision_reason: str
    gemm_share: float | None
    """The share of the machine's measured rate of products in that format that training reached
    (`hft_core.device.flops`), in     the first process; None where nothing was multiplied."""
    seconds: dict[str, float]
    """`data`, `forward`, `backward`, `optimizer` (these four are training), `evaluation`, `saving`, `other`, and
    `total`, with those before a resume (see `hft_core.device.clock`)."""
    skipped_steps: int
    compilation: dict[str, Any] = field(default_factory=dict)
    """Whether the trunk's layers were `chosen` to be compiled, the `reason`, the `estimated_seconds` of compilation
    (null where nothing was estimated) and the measured `seconds` (see `hft_core.acceleration.compile`)."""
    warnings: tuple[str, ...] = ()


def stage_result(value: Mapping[str, Any]) -> StageResult:
    """The inverse of `dataclasses.asdict`, after a way through JSON."""
    lists = {name: tuple(value[name]) for name in ("tasks", "warnings")}
    history = tuple(Evaluation(**evaluation) for evaluation in value["history"])
    return StageResult(**{**value, **lists, "history": history})


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    folder: Path | None
    final: dict[str, Scores]
    """Scores by split (`dev`, `test`), task and metric."""
    main_metrics: dict[str, str]
    """Each task's main metric."""
    base_lm_loss: dict[str, dict[str, float]]
    """Dev loss, `before` and `after`, of each self-supervised task whose head came trained, or was trained by an
    earlier stage: what was forgotten. `before` is that before the first stage at which the head was trained already."""
    stages: tuple[StageResult, ...]
    seconds: float
    device: str
    precision: str
    precision_reason: str
    versions: dict[str, str]
    plugins: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The value of `results.json`: plain data, null for numbers that are not finite."""
        value: dict[str, Any] = finite(asdict(self))
        del value["folder"]
        return value


RECIPE_FILE, RESULTS_FILE, LOG_FILE, CARD_FILE = "recipe.yaml", "results.json", "log.jsonl", "README.md"
MODEL_FOLDER, CHECKPOINT_FOLDER, COMBINER_FOLDER = "model", "checkpoints", "combiners"
PROFILE_FOLDER = "profile"
FOLDERS = (MODEL_FOLDER, CHECKPOINT_FOLDER, COMBINER_FOLDER, PROFILE_FOLDER)
OUTPUTS = (RECIPE_FILE, RESULTS_FILE, LOG_FILE, CARD_FILE, *FOLDERS)
"""What a run writes into its folder."""


ORIGIN = ("seam", "name", "distribution", "version", "sha256")
"""What is kept of each plugin that a run used; the last one of a single file only."""


def plugins_of(folder: Path) -> list[dict[str, str]]:
    """Where the plugins of the finished run in `folder` came from. Raises `ModelError` when its results are damaged."""
    file = folder / RESULTS_FILE
    try:
        record = read_json(file)["plugins"]
        return [{key: str(used.get(key, "") if key == "sha256" else used[key]) for key in ORIGIN} for used in record]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} does not say which plugins the run used: {type(error).__name__}: {error}") from error


def check_unused(folder: Path) -> None:
    """Raise `UsageError` when the folder holds anything that a run would write: nothing computed is lost."""
    taken = [name for name in OUTPUTS if (folder / name).exists() or (folder / name).is_symlink()]
    if taken:
        raise UsageError(
            f"output folder '{folder}' holds {', '.join(taken)} already: name another (a run overwrites nothing)"
        )


def refuse_links(folder: Path) -> None:
    """Raise `UsageError` when the run in `folder` holds a symbolic link: what is written to it lands elsewhere."""
    for path, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(path) / name).is_symlink():
                raise UsageError(
                    f"'{Path(path) / name}' is a symbolic link: a run that goes on has only files of its own"
                )


def read_json(path: Path) -> Any:
    """What a JSON file of a run holds: plain data. Raises `OSError` or `ValueError`, whatever is in the file."""
    if not path.is_file():  # a folder, or something that never ends
        raise FileNotFoundError(f"{path} is missing, or no file")
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` whole or not at all."""
    write_text(path, json_text(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with null for numbers that are not finite, for which JSON has no name."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write `text` whole or not at all. Raises `RunError` where the system refuses (a full disk)."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
