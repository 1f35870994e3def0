"""Stand in for `hft run RECIPE --out RUN --resume` in tests of sweeps: scores follow from the learning rate at once, a
little from the seed; a low-rank strategy has as many parameters as its rank, another one 1,000."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import yaml

from hft_core.runtime import locks
from hft_core.runtime.run_folder import LOCK_FILE

EVALUATIONS = 6


def accuracy(rate: float, evaluation: int) -> float:
    """The best rate is 1e-3; the others are worse from the first evaluation on."""
    return (1 - 0.2 * abs(math.log10(rate) + 3)) * (0.5 + 0.5 * evaluation / EVALUATIONS)


def main(recipe: Path, out: Path, seconds: float) -> None:
    data = yaml.safe_load(recipe.read_text())
    stage = data["stages"][-1]
    rate, strategy = float(stage["learning_rate"] or 1e-3), stage["strategy"]
    size = strategy.get("r", 8) if isinstance(strategy, dict) and strategy["type"] == "lora" else 1000
    if rate > 5e-2:
        raise SystemExit("error: out of memory: 20 GiB are needed")
    if rate > 2e-2:
        os.kill(os.getpid(), 9)
    out.mkdir(parents=True, exist_ok=True)
    with locks.locked(out / LOCK_FILE):
        train(out, stage["name"], rate, seconds)
        scores = {"topic": {"accuracy": accuracy(rate, EVALUATIONS) + 0.001 * (data["seed"] % 5)}}
        stages = [{"trainable": size, "seconds": {"total": 2.0}}]
        (out / "results.json").write_text(json.dumps({"final": {"dev": scores}, "stages": stages}))


def train(out: Path, stage: str, rate: float, seconds: float) -> None:
    log = out / "log.jsonl"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    for i in range(done + 1, EVALUATIONS + 1):
        scores = {"topic": {"accuracy": accuracy(rate, i)}}
        line = {"event": "evaluation", "split": "dev", "stage": stage, "step": i, "scores": scores}
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(seconds)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    except KeyboardInterrupt:
        sys.exit(130)
