"""What a step with a combiner of gradients costs, as a multiple of the same step with `sum`, for 2 to 16 tasks.

python tests/benchmarks/combiner_cost.py [--rounds N] [--steps N] [--json PATH]

`same texts`: every task has labels for all 32 texts of a step, and gradients are combined at the representation. `own
texts`: the 32 rows of a step are divided among the tasks; combined at the representation, and exactly, on all shared
parameters: those of the encoder, or of LoRA in all its layers. `more_mib` is the peak of resident memory above that
with `sum`, of a process each.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ours
import side_by_side
import workload

TASKS = (2, 4, 8, 16)
ROWS = 32
WAYS: dict[str, Any] = {"sum": "sum", "representation": {"type": "pcgrad", "at": "representation"}, "shared": "pcgrad"}
STRATEGIES: dict[str, Any] = {"full": "full", "lora": {"type": "lora", "r": 8}}
CELLS = [
    *((True, "full", count) for count in TASKS),
    *((False, "full", count) for count in TASKS),
    *((False, "lora", count) for count in (4, 8)),
]
"""On the same texts or not, a strategy, and a number of tasks."""
GOALS = {
    (True, "representation", 4): 1.1,
    (True, "representation", 16): 1.25,
    (False, "shared", 4): 1.25,
}


def named(count: int) -> list[str]:
    """So many tasks, those beyond four once more under another number."""
    labels = list(workload.LABELS)
    return [labels[i % 4] + (str(i // 4) if i >= 4 else "") for i in range(count)]


def rate(same: bool, strategy: str, count: int, way: str, steps: int) -> float:
    """Rows a second."""
    texts = workload.texts("short", 4000)
    tasks = {name: texts if same else texts[i::count] for i, name in enumerate(named(count))}
    settings = {"strategy": STRATEGIES[strategy], "combiner": WAYS[way]}
    size = ROWS * count if same else ROWS
    return ours.trained(tasks, steps, per_device_train_batch_size=size, **settings)[0].rate


def peak(same: bool, strategy: str, count: int, way: str) -> float:
    """The resident memory that a process of its own needs for it at most, in MiB."""
    asked = [sys.executable, __file__, "peak", str(int(same)), strategy, str(count), way]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[-1])


def cell(report: side_by_side.Report, same: bool, strategy: str, count: int, rounds: int, steps: int) -> None:
    def contender(way: str) -> Callable[[], float]:
        return lambda: rate(same, strategy, count, way, steps)

    ways = ("sum", "representation") if same else tuple(WAYS)
    found = side_by_side.in_turn({way: contender(way) for way in ways}, rounds)
    usual = peak(same, strategy, count, "sum")
    for way in ways[1:]:
        report.add(
            texts="same" if same else "own",
            strategy=strategy,
            tasks=count,
            at=way,
            cost_is_times_sum=side_by_side.ratio(found, "sum", way),
            goal=GOALS.get((same, way, count)),
            more_mib=peak(same, strategy, count, way) - usual,
        )


def main() -> None:
    if sys.argv[1:2] == ["peak"]:
        same, strategy, count, way = sys.argv[2:]
        rate(bool(int(same)), strategy, int(count), way, 3)
        # Not ru_maxrss: a process begins with its parent's.
        (line,) = (each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
        print(int(line.split()[1]) / 1024)
        return
    settings = side_by_side.arguments(__doc__, rounds=3, steps=15)
    report = side_by_side.Report("combiner_cost")
    for same, strategy, count in CELLS:
        cell(report, same, strategy, count, settings.rounds, settings.steps)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
