"""Four tasks on the same texts: one run of all of them against a run for each, and one prediction against four.

python tests/benchmarks/same_texts.py [--rounds N] [--steps N] [--json PATH]

LoRA of rank 8. The joint run has 32 texts a step, with the labels of all four tasks; each single run 32 rows of its
task. Loading, tokenizing and the first three steps do not count. `own parts` are the joint run with a LoRA for each
task in the upper three of six layers, against the same run with each task's rows in all layers; `by counting` is what
the layers allow: forward 1 a layer, backward 1 where adapters train.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import ours
import side_by_side
import workload

import hft_core
from hft_core.acceleration import shared_layers
from hft_core.predict.prediction import predict, predict_tasks

LORA = {"type": "lora", "r": 8}
OWN_PARTS = {"type": "task-lora", "r": 8, "target_modules": r".*\.[345]\..*(query|key|value|dense)"}
BY_COUNTING = {"training": 4 * (6 + 3) / (3 + 4 * (3 + 3)), "prediction": 4 * 6 / (3 + 4 * 3)}
TEXTS = 1000
"""Texts that are predicted."""


def seconds_a_text(tasks: list[str], rows: list[dict[str, str]], steps: int, strategy: Any = LORA) -> float:
    """Seconds of training a text with all its labels."""
    size = 32 * len(tasks)
    watch, _ = ours.trained(
        dict.fromkeys(tasks, rows),
        steps,
        strategy=strategy,
        learning_rate=1e-3,
        per_device_train_batch_size=size,
        cache_activations="no",
    )
    return len(tasks) / watch.rate


def training(report: side_by_side.Report, kind: str, rounds: int, steps: int) -> None:
    rows, names = workload.texts(kind, 4000), list(workload.LABELS)
    ratios, joint, alone = [], [], []
    for _ in range(rounds):
        joint.append(seconds_a_text(names, rows, steps))
        alone.append(sum(seconds_a_text([name], rows, steps) for name in names))
        ratios.append(alone[-1] / joint[-1])
    report.add(
        what="training",
        texts=kind,
        joint_texts_per_s=1 / statistics.median(joint),
        single_runs_texts_per_s=1 / statistics.median(alone),
        joint_is_times=statistics.median(ratios),
        goal=3.0,
    )


@contextmanager
def opened(kind: str, strategy: Any) -> Iterator[tuple[hft_core.SavedRun, list[dict[str, Any]]]]:
    """A run of all tasks, and the texts that are predicted."""
    rows = workload.texts(kind, 4000)[:TEXTS]
    chosen, data = workload.recipe(dict.fromkeys(workload.LABELS, rows), 2, strategy=strategy)
    with tempfile.TemporaryDirectory() as folder:
        hft_core.run(chosen, data=data, output=Path(folder) / "run")
        yield (
            hft_core.open_run(Path(folder) / "run", hft_core.Catalogue.discover()),
            [{"text": row["text"]} for row in rows],
        )


def prediction(report: side_by_side.Report, kind: str, rounds: int) -> None:
    names = list(workload.LABELS)
    with opened(kind, LORA) as (saved, inputs):
        ratios, joint, alone = [], [], []
        for _ in range(rounds):
            began = time.perf_counter()
            predict_tasks(saved, inputs, names)
            joint.append(time.perf_counter() - began)
            began = time.perf_counter()
            for name in names:
                predict(saved, name, inputs)
            alone.append(time.perf_counter() - began)
            ratios.append(alone[-1] / joint[-1])
    report.add(
        what="prediction",
        texts=kind,
        joint_texts_per_s=TEXTS / statistics.median(joint),
        single_runs_texts_per_s=TEXTS / statistics.median(alone),
        joint_is_times=statistics.median(ratios),
        goal=3.5,
    )


def own_parts(report: side_by_side.Report, kind: str, rounds: int, steps: int) -> None:
    """A LoRA for each task in upper layers: texts once in the layers below, and once for each task."""
    rows, names = workload.texts(kind, 4000), list(workload.LABELS)
    once, apart = [], []
    for _ in range(rounds):
        once.append(seconds_a_text(names, rows, steps, OWN_PARTS))
        with nothing_in_common():
            apart.append(seconds_a_text(names, rows, steps, OWN_PARTS))
    add_own_parts(report, "training", kind, once, apart)
    once, apart = [], []
    for _ in range(rounds):
        with opened(kind, OWN_PARTS) as (saved, inputs):
            once.append(seconds_of_prediction(saved, inputs, names) / TEXTS)
        with nothing_in_common(), opened(kind, OWN_PARTS) as (saved, inputs):
            apart.append(seconds_of_prediction(saved, inputs, names) / TEXTS)
    add_own_parts(report, "prediction", kind, once, apart)


def nothing_in_common() -> Any:
    """Inside, each task's rows go through all layers."""
    return mock.patch.object(shared_layers, "depth", return_value=0)


def seconds_of_prediction(saved: hft_core.SavedRun, inputs: list[dict[str, Any]], names: list[str]) -> float:
    predict_tasks(saved, inputs[:8], names)
    began = time.perf_counter()
    predict_tasks(saved, inputs, names)
    return time.perf_counter() - began


def add_own_parts(report: side_by_side.Report, what: str, kind: str, once: list[float], apart: list[float]) -> None:
    """`once`, `apart`: seconds a text, by round."""
    report.add(
        what=f"{what}, own parts",
        texts=kind,
        joint_texts_per_s=1 / statistics.median(once),
        all_layers_texts_per_s=1 / statistics.median(apart),
        joint_is_times=statistics.median(a / o for a, o in zip(apart, once, strict=True)),
        by_counting=BY_COUNTING[what],
    )


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=25)
    report = side_by_side.Report("same_texts")
    for kind in ("short", "mixed"):
        training(report, kind, settings.rounds, settings.steps)
        prediction(report, kind, settings.rounds)
        own_parts(report, kind, settings.rounds, settings.steps)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
