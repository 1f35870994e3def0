"""How many texts a second prediction answers on a CPU, with few and with many tokens in a batch.

python tests/benchmarks/evaluation_batch.py [--rounds N] [--rows N] [--json PATH]

Rows a second are those of `predict` with everything that it does, tokenizing included. The limit that hft has on CPUs
(`hft_core.batching.buckets.CPU_TOKENS`) stands beside others; `padding` is the share of a batch's
tokens that is none, which
smaller batches have less of.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import workload

import hft_core
from hft_core.batching import buckets, collate
from hft_core.predict.prediction import predict
from hft_core.predict.saved_run import SavedRun

STRATEGIES: dict[str, Any] = {"full": "full", "lora": {"type": "lora", "r": 8}}
LIMITS = (512, 2048, 8192, 16384)


def measured(saved: SavedRun, rows: list[dict[str, str]], limit: int, padding: dict[int, float]) -> float:
    """Rows a second, and in `padding` the share of padding."""
    real, all_tokens = 0, 0
    assemble = collate._assemble

    def counted(*args: Any) -> collate.Batch:
        nonlocal real, all_tokens
        batch = assemble(*args)
        real, all_tokens = real + batch.tokens, all_tokens + batch.inputs["input_ids"].numel()
        return batch

    usual, buckets.CPU_TOKENS, collate._assemble = buckets.CPU_TOKENS, limit, counted
    try:
        began = time.perf_counter()
        predict(saved, "topic", rows)
        seconds = time.perf_counter() - began
    finally:
        buckets.CPU_TOKENS, collate._assemble = usual, assemble
    padding[limit] = 1 - real / all_tokens
    return len(rows) / seconds


def compare(report: side_by_side.Report, kind: str, strategy: str, rows: int, rounds: int) -> None:
    """All limits on one model and kind of texts."""
    texts = workload.texts(kind, rows + 64)
    chosen, data = workload.recipe({"topic": texts[:64]}, 2, strategy=STRATEGIES[strategy])
    with tempfile.TemporaryDirectory() as folder:
        hft_core.run(chosen, data=data, output=Path(folder) / "run")
        saved = hft_core.open_run(Path(folder) / "run", hft_core.Catalogue.discover())
    padding: dict[int, float] = {}

    def contender(limit: int) -> Callable[[], float]:
        return lambda: measured(saved, texts[64:], limit, padding)

    found = side_by_side.in_turn({str(limit): contender(limit) for limit in LIMITS}, rounds)
    for limit in LIMITS:
        report.add(
            texts=kind,
            strategy=strategy,
            tokens_a_batch=limit,
            rows_per_s=statistics.median(found[str(limit)]),
            is_times_16384=side_by_side.ratio(found, str(limit), "16384"),
            padding=padding[limit],
        )


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=5, rows=400)
    report = side_by_side.Report("evaluation_batch")
    for kind in ("short", "mixed"):
        for strategy in STRATEGIES:
            compare(report, kind, strategy, settings.rows, settings.rounds)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
