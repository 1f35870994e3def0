"""What frozen layers cost when a row comes again: from the store of what they made, against computing them anew.

python tests/benchmarks/frozen_work.py [--rounds N] [--steps N] [--json PATH]

Passages of about 70 tokens. `frozen` trains a head on a frozen trunk, `partial` the upper two of six layers,
`lora` adapters in the upper three. The store is filled before the first step; loading, tokenizing, filling and the
first three steps do not count, so that the figures are those of every epoch after the first. `by counting` is what the
layers that are left allow: forward 1 a layer, backward 2, or 1 where only adapters train.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import ours
import side_by_side
import workload

TARGETS = ["query", "key", "value", "dense"]
CASES: dict[str, tuple[Any, float | None, float]] = {
    "frozen": ("frozen", None, 20.0),
    "partial": ({"type": "partial", "layers": 2}, 10 / 6, 0.9 * 10 / 6),
    "lora": (
        {"type": "peft", "method": "LORA", "r": 8, "target_modules": TARGETS, "layers_to_transform": [3, 4, 5]},
        9 / 6,
        0.9 * 9 / 6,
    ),
}
"""A strategy, what counting layers allows, and the goal."""
ROWS = 640


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=77)
    report = side_by_side.Report("frozen_work")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HFT_CACHE"] = folder
        for name, (strategy, allowed, goal) in CASES.items():

            def contender(cache: str, strategy: Any = strategy) -> Callable[[], float]:
                return lambda: (
                    ours.trained(
                        {"topic": workload.texts("mixed", ROWS)},
                        settings.steps,
                        strategy=strategy,
                        cache_activations=cache,
                    )[0].rate
                )

            found = side_by_side.in_turn({"stored": contender("auto"), "computed": contender("no")}, settings.rounds)
            report.add(
                strategy=name,
                stored_rows_per_s=sorted(found["stored"])[settings.rounds // 2],
                computed_rows_per_s=sorted(found["computed"])[settings.rounds // 2],
                stored_is_times=side_by_side.ratio(found, "stored", "computed"),
                by_counting=allowed,
                goal=goal,
            )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
