"""What the runs of a study scored and cost, read from their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hft_core.runtime.run_folder import RESULTS_FILE

COSTS = ("rows", "tokens", "steps", "trainable", "seconds", "peak_memory")
"""What arms are compared in beside their scores, summed over stages; `trainable`: trunk parameters of the last one."""
NOTABLE = 0.05
"""A relative difference in cost that is said."""


@dataclass
class ArmEvidence:
    """One arm's runs."""

    name: str
    control: str = ""
    overrides: tuple[str, ...] = ()
    seeds: list[int] = field(default_factory=list)
    """Of the finished runs."""
    failed: dict[int, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """Of the finished runs, below the study."""
    scores: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    """By split, task and metric: one value a finished seed."""
    main_metrics: dict[str, str] = field(default_factory=dict)
    greater_is_better: dict[str, bool] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    """Means over seeds."""
    forgetting: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each task that an earlier stage or the base model knew: its dev loss before and after, means over seeds."""

    def main(self, split: str, task: str) -> dict[int, float]:
        """Return the main score of a task by seed; empty where it was not measured."""
        values = self.scores.get(split, {}).get(task, {}).get(self.main_metrics.get(task, ""), [])
        return dict(zip(self.seeds, values, strict=True)) if len(values) == len(self.seeds) else {}

    def mean(self, split: str, task: str) -> float | None:
        """Return the mean main score of a task; None where it was not measured."""
        values = list(self.main(split, task).values())
        return float(np.mean(values)) if values else None


def gather(
    name: str, folders: Mapping[int, Path], study: Path, failures: Mapping[int, str], **facts: Any
) -> ArmEvidence:
    """Read the results of an arm's finished runs, by seed."""
    arm = ArmEvidence(name, failed=dict(failures), **facts)
    results = []
    for seed, folder in folders.items():
        if (folder / RESULTS_FILE).is_file():
            results.append(json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8")))
            arm.seeds.append(seed)
            arm.folders.append(folder.relative_to(study).as_posix())
    if not results:
        return arm
    arm.main_metrics = dict(results[0]["main_metrics"])
    arm.greater_is_better = dict(results[0]["greater_is_better"])
    for split in ("dev", "test"):
        for task, metrics in results[0]["final"].get(split, {}).items():
            arm.scores.setdefault(split, {})[task] = {
                metric: [_number(result["final"][split].get(task, {}).get(metric)) for result in results]
                for metric in metrics
            }
    arm.cost = {name: float(np.mean([_cost(result)[name] for result in results])) for name in COSTS}
    arm.forgetting = _forgetting(results)
    return arm


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _cost(result: Mapping[str, Any]) -> dict[str, float]:
    stages: Sequence[Mapping[str, Any]] = result["stages"]
    summed = {key: float(sum(stage[key] for stage in stages)) for key in ("rows", "tokens", "steps")}
    return {
        **summed,
        "trainable": float(stages[-1]["trainable"]),
        "seconds": float(sum(stage["seconds"]["total"] for stage in stages)),
        "peak_memory": float(result.get("peak_memory") or 0),
    }


def _forgetting(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the dev loss of tasks before the stage that no longer trains them, and at the end."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        known: dict[str, dict[str, Any]] = {task: dict(losses) for task, losses in result["base_lm_loss"].items()}
        for i, stage in enumerate(result["stages"][1:], start=1):
            earlier = {task for before in result["stages"][:i] for task in before["tasks"]} - set(stage["tasks"])
            for task in earlier & stage["before"].keys() & result["final"]["dev"].keys():
                losses = {"before": stage["before"][task]["loss"], "after": result["final"]["dev"][task]["loss"]}
                known.setdefault(task, losses)
        for task, losses in known.items():
            for moment, loss in losses.items():
                found.setdefault(task, {}).setdefault(moment, []).append(_number(loss))
    return {task: {moment: float(np.mean(v)) for moment, v in moments.items()} for task, moments in found.items()}


def unequal_budgets(arm: ArmEvidence, reference: ArmEvidence) -> list[str]:
    """Say each cost of an arm that differs from the reference's by more than 5 %."""
    said = []
    for name, value in arm.cost.items():
        base = reference.cost.get(name, 0.0)
        if base and abs(value - base) > NOTABLE * base:
            said.append(f"{name.replace('_', ' ')} × {value / base:.2f}")
        elif not base and value:
            said.append(f"{name.replace('_', ' ')} {value:.3g} instead of 0")
    return said
