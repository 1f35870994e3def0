"""Contenders timed side by side: in each round every one of them once, in turn, and ratios taken within the round.

A machine that is shared slows down and speeds up; two contenders of one round meet the same machine, so that medians of
their ratios hold where times do not.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers

from hft_core.device import gemm_speed

Contenders = Mapping[str, Callable[[], float]]
"""Contenders by name: each call does the same work and gives its rate (the more, the better)."""


@dataclass
class Report:
    """What one benchmark measured, as it goes into its JSON file."""

    benchmark: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **facts: Any) -> None:
        """One line of the table, shown at once."""
        self.rows.append({key: _short(value) for key, value in facts.items()})
        print(json.dumps(self.rows[-1]), flush=True)

    def write(self, path: Path) -> None:
        whole = {
            "benchmark": self.benchmark,
            "date": date.today().isoformat(),
            "machine": machine(),
            "rows": self.rows,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def in_turn(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """The rates of all contenders, by round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, rate in contenders.items():
            found[name].append(rate())
    return found


def ratio(found: Mapping[str, list[float]], name: str, base: str) -> float:
    """The median over the rounds of `name`'s rate over `base`'s."""
    return statistics.median(a / b for a, b in zip(found[name], found[base], strict=True))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    single, half = gemm_speed.measure((torch.float32, torch.bfloat16), torch.device("cpu"))
    return {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "float32 GFLOP/s": round(single),
        "bfloat16 GFLOP/s": round(half),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }


def arguments(description: str, *, rounds: int, **more: int) -> argparse.Namespace:
    """`--rounds`, `--json` and whole numbers of the benchmark's own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    for name, value in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    return parser.parse_args()


def finish(report: Report, path: Path | None) -> None:
    if path is not None:
        report.write(path)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
