"""Four tasks on the same texts: one run of all of them against a run for each, and one prediction against four.

python tests/benchmarks/same_texts.py [--rounds N] [--steps N] [--json PATH]

LoRA of rank 8. The joint run has 32 texts a step, with the labels of all four tasks; each single run 32 rows of its
task. Loading, tokenising and the first three steps do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ours
import side_by_side
import workload

import hft_core
from hft_core.predict import predict, predict_tasks

LORA = {"type": "lora", "r": 8}
TEXTS = 1000
"""Texts that are predicted."""


def seconds_a_text(tasks: list[str], rows: list[dict[str, str]], steps: int) -> float:
    """Seconds of training a text with all its labels."""
    size = 32 * len(tasks)
    watch, _ = ours.trained(
        dict.fromkeys(tasks, rows), steps, strategy=LORA, learning_rate=1e-3, per_device_train_batch_size=size
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


def prediction(report: side_by_side.Report, kind: str, rounds: int) -> None:
    rows, names = workload.texts(kind, 4000)[:TEXTS], list(workload.LABELS)
    chosen, data = workload.recipe(dict.fromkeys(names, rows), 2, strategy=LORA)
    with tempfile.TemporaryDirectory() as folder:
        hft_core.run(chosen, data=data, output=Path(folder) / "run")
        saved = hft_core.open_run(Path(folder) / "run", hft_core.Catalogue.discover())
        inputs: list[dict[str, Any]] = [{"text": row["text"]} for row in rows]
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


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=25)
    report = side_by_side.Report("same_texts")
    for kind in ("short", "mixed"):
        training(report, kind, settings.rounds, settings.steps)
        prediction(report, kind, settings.rounds)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
