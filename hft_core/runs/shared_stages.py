"""Share the first stages of runs that begin alike: one run trains them, the others continue from its weights.

Two runs share a stage if everything that it depends on is equal: the stages up to it with all options, seed and number
format, and the digests of the base model, of the heads and rows of its tasks, of the plugins' code and of the versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from hft_core.model import tied_weights
from hft_core.pins import Pins
from hft_core.results import Scores, StageResult, stage_result
from hft_core.runs.assembly import BuiltRun
from hft_core.runtime import locks
from hft_core.runtime.files import read_json, write_json
from hft_core.runtime.run_folder import RunFolder
from hft_core.training import weights

if TYPE_CHECKING:
    from hft_core.model.hybrid import HybridModel

WEIGHTS, STATE, LOCK = "weights.safetensors", "state.json", ".lock"


class SharedStages:
    """The folder in which runs leave their first stages for each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = ExitStack()

    def take(self, built: BuiltRun, pins: Pins, files: RunFolder) -> tuple[list[StageResult], Scores, bool] | None:
        """Put the weights of the longest stages that another run has left into the model.

        Returns their results, the dev scores, and whether the trunk changed. Without any, waits for a run that trains
        the first of them; returns None where this run has to.
        """
        boundaries = list(_boundaries(built))
        if found := self._found(built, pins, boundaries, files):
            return found
        if boundaries:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.folder / f"{_key(built, pins, min(boundaries))}{LOCK}"
            self._locks.enter_context(locks.locked(lock, wait=True))
        found = self._found(built, pins, boundaries, files)
        if found:
            self._locks.close()
        return found

    def leave(
        self, built: BuiltRun, pins: Pins, done: list[StageResult], scores: Scores, changed: bool, files: RunFolder
    ) -> None:
        """Leave the model as it is after the stages that are done, where another run may begin like this one."""
        count = len(done)
        if count in _boundaries(built):
            place = self.folder / _key(built, pins, count)
            tasks = _tasks(built, count)
            state = {n: t for n, t in weights.whole_state(built.model).items() if _belongs(n, tasks)}
            weights.save(place / WEIGHTS, state)
            combiners = {
                path.name: path
                for i, stage in enumerate(built.resolved.recipe.stages[:count])
                if (path := files.combiner_state(i, stage.name)).exists()
            }
            for name, path in combiners.items():
                weights.save(place / name, load_file(path))
            results = [asdict(result) for result in done]
            write_json(
                place / STATE,  # last: it marks the rest as complete
                {"results": results, "scores": scores, "trunk_changed": changed, "combiners": sorted(combiners)},
            )
        self._locks.close()

    def close(self) -> None:
        """Release the runs that wait for this one."""
        self._locks.close()

    def _found(
        self, built: BuiltRun, pins: Pins, boundaries: Collection[int], files: RunFolder
    ) -> tuple[list[StageResult], Scores, bool] | None:
        for count in sorted(boundaries, reverse=True):
            place = self.folder / _key(built, pins, count)
            if (place / STATE).exists():
                kept: dict[str, Any] = read_json(place / STATE)
                _put(built.model, load_file(place / WEIGHTS), _tasks(built, count))
                for name in kept["combiners"]:
                    weights.save(files.combiners / name, load_file(place / name))
                scores = {task: found for task, found in kept["scores"].items() if task in built.heads}
                results = [stage_result(_without_others(value, built.heads)) for value in kept["results"]]
                return results, scores, bool(kept["trunk_changed"])
        return None


def _without_others(result: dict[str, Any], tasks: Collection[str]) -> dict[str, Any]:
    """Return a stage's result without scores of tasks that this run does not have."""
    kept = {
        key: {task: value for task, value in result[key].items() if task in tasks}
        for key in ("before", "after", "main_metrics")
    }
    return {**result, **kept}


def _boundaries(built: BuiltRun) -> Iterator[int]:
    """Yield the numbers of first stages after which nothing of a strategy is left beside the trunk."""
    for count in range(1, len(built.resolved.stages)):
        if built.resolved.folds_after(count - 1):
            yield count


def _tasks(built: BuiltRun, count: int) -> set[str]:
    return {task for stage in built.resolved.recipe.stages[:count] for task in stage.tasks}


def _belongs(name: str, tasks: Collection[str]) -> bool:
    """Return whether a weight is of the trunk, or of the head of one of the tasks."""
    module, _, rest = name.partition(".")
    return module != "heads" or rest.partition(".")[0] in tasks


def _put(model: HybridModel, found: dict[str, Any], tasks: Collection[str]) -> None:
    tied_weights.untie(model, found.keys() - weights.whole_state(model).keys())
    state = weights.whole_state(model)
    weights.put(found, {name: tensor for name, tensor in state.items() if _belongs(name, tasks)})


def _key(built: BuiltRun, pins: Pins, count: int) -> str:
    """Return a digest of all that the first `count` stages depend on."""
    recipe, tasks = built.resolved.recipe, _tasks(built, count)
    data = recipe.model_dump(mode="json")
    told = pins.to_json()
    parts = {
        "stages": data["stages"][:count],
        "tasks": {task: data["tasks"][task] for task in sorted(tasks)},
        "seed": recipe.seed,
        "precision": recipe.precision,
        "backbone": data["backbone"],
        "replayed": sorted(task for task in tasks if recipe.tasks[task].replay),
        **{key: told[key] for key in ("weights", "configuration", "tokenizer", "versions", "code", "files")},
        **{key: {t: d for t, d in told[key].items() if t in tasks} for key in ("heads", "fresh_heads")},
        "rows": {
            split: {t: d for t, d in found.items() if t in tasks}
            for split, found in told["rows"].items()
            if split != "test"
        },
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
