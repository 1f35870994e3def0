"""Whether batches of like length learn as much as random ones: the topics of BBC articles, the same steps and seeds.

python tests/benchmarks/like_length.py [--rounds SEEDS] [--steps N] [--tokens N] [--json PATH]

Passages of one to five sentences, full fine-tuning. `random` cuts the shuffled rows into batches as they come; what a
batch pads is not the point here. `difference` is like-length minus random, over the seeds.
"""

from __future__ import annotations

import statistics
from typing import Any

import side_by_side
import workload

import hft_core
from hft_core.batching import plan

ORDERS = {"like-length": plan.LIKE_LENGTH_STEPS, "random": 1}
"""Steps whose rows are sorted by length together."""


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=60, tokens=64)
    report = side_by_side.Report("like_length")
    found: dict[str, list[dict[str, float]]] = {order: [] for order in ORDERS}
    for seed in range(settings.rounds):
        for order, steps in ORDERS.items():
            plan.LIKE_LENGTH_STEPS = steps
            scores = learned(seed, settings.steps, settings.tokens)
            found[order].append(scores)
            report.add(seed=seed, order=order, accuracy=scores["accuracy"], loss=scores["loss"])
    for metric in ("accuracy", "loss"):
        pairs = zip(found["like-length"], found["random"], strict=True)
        differences = [one[metric] - other[metric] for one, other in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        report.add(metric=metric, difference=statistics.mean(differences), standard_error=error)
    side_by_side.finish(report, settings.json)


def learned(seed: int, steps: int, tokens: int) -> dict[str, float]:
    """The test scores of one run."""
    texts = workload.texts("mixed", 2400)
    chosen, _ = workload.recipe({"topic": []}, steps, strategy="full", learning_rate=5e-5)
    chosen["tasks"]["topic"]["max_length"] = tokens
    data: dict[str, Any] = {"topic": {"train": texts[:2000], "test": texts[2000:]}}
    return hft_core.run({**chosen, "seed": seed}, data=data).final["test"]["topic"]


if __name__ == "__main__":
    main()
