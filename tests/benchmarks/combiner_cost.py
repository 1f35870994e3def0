"""What a step with a combiner of gradients costs, as a multiple of the same step with `sum`, for 2 to 16 tasks.

python tests/benchmarks/combiner_cost.py [--rounds N] [--steps N] [--json PATH]

Full fine-tuning. `same texts`: every task has labels for all 32 texts of a step, and gradients are combined at the
representation. `own texts`: the 32 rows of a step are divided among the tasks; combined at the representation, and
exactly, on all shared parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import ours
import side_by_side
import workload

TASKS = (2, 4, 8, 16)
ROWS = 32
WAYS = {"sum": "sum", "representation": {"type": "pcgrad", "at": "representation"}, "shared": "pcgrad"}


def named(count: int) -> list[str]:
    """So many tasks, those beyond four once more under another number."""
    labels = list(workload.LABELS)
    return [labels[i % 4] + (str(i // 4) if i >= 4 else "") for i in range(count)]


def cell(report: side_by_side.Report, same: bool, count: int, rounds: int, steps: int) -> None:
    texts, names = workload.texts("short", 4000), named(count)
    tasks = {name: texts if same else texts[i::count] for i, name in enumerate(names)}
    size = ROWS * count if same else ROWS

    def contender(way: str) -> Callable[[], float]:
        return lambda: (
            ours.trained(tasks, steps, strategy="full", combiner=WAYS[way], per_device_train_batch_size=size)[0].rate
        )

    ways = ("sum", "representation") if same else tuple(WAYS)
    found = side_by_side.in_turn({way: contender(way) for way in ways}, rounds)
    for way in ways[1:]:
        report.add(
            texts="same" if same else "own",
            tasks=count,
            at=way,
            cost_is_times_sum=side_by_side.ratio(found, "sum", way),
            goal={(True, 4): 1.1, (True, 16): 1.25, (False, 4): 1.25}.get((same, count)),
        )


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=15)
    report = side_by_side.Report("combiner_cost")
    for same in (True, False):
        for count in TASKS:
            cell(report, same, count, settings.rounds, settings.steps)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
