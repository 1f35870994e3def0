"""Prediction with int8 layers in the trunk: how fast beside float32 and bfloat16, and what it costs in accuracy.

python tests/benchmarks/int8.py [--rounds N] [--steps N] [--json PATH]

The encoder is trained for 60 steps to tell the topics of BBC articles, and then tells those of texts that it has not
seen. Rows a second are those of `predict` with everything that it does, tokenizing included, on one thread: several
wait for one another where a machine is shared, and the number formats not equally. LoRA is merged in int8 alone.
`other answers` is the share of the scored rows to which int8 gives another label than float32.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import torch
import workload

import hft_core
from hft_core.device.machine import find_machine
from hft_core.predict.prediction import predict
from hft_core.predict.saved_run import SavedRun

STAGES: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full", "learning_rate": 2e-4},
    "lora": {"strategy": {"type": "lora", "r": 8}, "learning_rate": 1e-3},
}
KIND = "short"
"""The texts: sentences of about 25 tokens."""
TIMED, SCORED = 200, 1000
"""Rows that are predicted against the clock, and rows whose answers are compared."""


def opened(folder: Path) -> dict[str, SavedRun]:
    """The run in each number format."""
    catalogue = hft_core.Catalogue.discover()
    found = {name: hft_core.open_run(folder, catalogue, int8=name == "int8") for name in ("fp32", "bf16", "int8")}
    for name in ("fp32", "bf16"):
        found[name].machine = find_machine(name)
    return found


def rate(saved: SavedRun, rows: list[dict[str, str]]) -> Callable[[], float]:
    """Measures rows a second."""

    def measure() -> float:
        began = time.perf_counter()
        predict(saved, "topic", rows)
        return len(rows) / (time.perf_counter() - began)

    return measure


def agreement(one: list[str], other: list[str]) -> float:
    """The share of equal labels."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=60)
    torch.set_num_threads(1)
    report = side_by_side.Report("int8")
    for strategy, stage in STAGES.items():
        seen = 32 * settings.steps
        texts = workload.texts(KIND, seen + SCORED)
        chosen, data = workload.recipe({"topic": texts[:seen]}, settings.steps, **stage)
        unseen = texts[seen:]
        with tempfile.TemporaryDirectory() as folder:
            hft_core.run(chosen, data=data, output=Path(folder) / "run")
            runs = opened(Path(folder) / "run")
        timed = {name: rate(saved, unseen[:TIMED]) for name, saved in runs.items()}
        found = side_by_side.in_turn(timed, settings.rounds)
        labels = {name: [answer["label"] for answer in predict(run, "topic", unseen)] for name, run in runs.items()}
        truth = [row["topic"] for row in unseen]
        report.add(
            strategy=strategy,
            texts=KIND,
            **{f"{name}_rows_per_s": statistics.median(rates) for name, rates in found.items()},
            int8_is_times_fp32=side_by_side.ratio(found, "int8", "fp32"),
            int8_is_times_bf16=side_by_side.ratio(found, "int8", "bf16"),
            **{f"{name}_accuracy": agreement(said, truth) for name, said in labels.items()},
            other_answers=1 - agreement(labels["int8"], labels["fp32"]),
        )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
