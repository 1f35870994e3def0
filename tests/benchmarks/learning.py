"""Accuracy after learning from few labelled rows, over seeds: hft beside other libraries, and strategies side by side.

python tests/benchmarks/learning.py CELLS.jsonl [--contenders NAME ...] [--data NAME ...] [--rows N ...]
    [--seeds N] [--against NAME] [--json docs/benchmarks/learning.json]

Accuracy on 500 test rows (332 of the questions); in brackets the number of seeds, with a 95 % t interval where there
are several. Cells without a value were not run. With one seed, the standard error of a score is up to 2.3 points: a few
points do not tell contenders apart. A seed draws the training rows and 50 dev rows or more, the same for all; the test
rows are always the same. hft chooses its best weights by the dev rows, and logistic regression its C; the others do not
use them. At 50 rows hft takes about 100 steps by default, as `mean-pooled-long` does, the mean-pooled loop and PEFT 40,
Trainer 21. All start from MiniLM-L6, in float32 on one thread, and read 48 tokens. `seconds` are CPU seconds of one
run, tests included, on a busy machine: the median over the cells that were run; those of contenders with one seed are
of another machine. Each cell is kept in CELLS.jsonl as soon as it is there, and none is run twice. Contenders are those
of `learning_contenders.py`, each at the settings that its docstring states; SetFit needs an environment of its own.
`hft:STRATEGY[:KEY=VALUE…]` is 4 epochs of 8 rows with a strategy, `tasks:…` the same with two related tasks. Not
compared: the `adapters` library, and tasks that are not classification.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from few_shot import interval, splits
from learning_contenders import CONTENDERS, RELATED_ROWS, UNLABELLED_ROWS, Problem, hft, hft_tasks
from learning_data import DATA
from side_by_side import Report

TEST_ROWS = 500
RELATED = 2
Cell = dict[str, Any]
KEYS = ("contender", "data", "rows", "seed")


def problem(name: str, count: int, seed: int) -> Problem:
    """Draw the rows of one cell."""
    data = DATA[name]
    rows = data.rows()
    parts = splits(rows, count, min(TEST_ROWS, len(rows) // 2), seed)
    held_out = {row["text"] for row in parts["test"]}
    pool = [row["text"] for row in rows if row["text"] not in held_out]
    related = {other: splits(DATA[other].rows(), RELATED_ROWS, 50, seed) for other in data.related[:RELATED]}
    unlabelled = random.Random(seed).sample(pool, min(UNLABELLED_ROWS, len(pool)))
    return Problem(parts, seed, data.spaced, related, unlabelled)


def contender(name: str) -> Callable[[Problem], float]:
    """Return a contender by name, or one that is described by its name."""
    kind, _, rest = name.partition(":")
    if not rest:
        return CONTENDERS[name]
    strategy, *settings = rest.split(":")
    options = {key: json.loads(value) for key, _, value in (setting.partition("=") for setting in settings)}
    stage = {"strategy": strategy, "num_train_epochs": 4, "train_batch_size": 8, **options}
    return {"hft": hft, "tasks": hft_tasks}[kind](stage)


def run(file: Path, wanted: Sequence[tuple[str, str, int, int]]) -> None:
    """Run the wanted cells that are not in the file, and add each to it."""
    for key in wanted:
        if any(tuple(cell[k] for k in KEYS) == key for cell in kept(file)):
            continue
        name, data, count, seed = key
        learn, drawn = contender(name), problem(data, count, seed)
        began, cpu = time.perf_counter(), time.process_time()
        score = learn(drawn)
        facts = {"accuracy": round(score, 4), "cpu_s": round(time.process_time() - cpu, 1)}
        cell = {**dict(zip(KEYS, key, strict=True)), **facts, "wall_s": round(time.perf_counter() - began, 1)}
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(cell) + "\n")
        print(json.dumps(cell), flush=True)


def kept(file: Path) -> list[Cell]:
    """Read the cells that are there."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a line for each data set and number of rows, with a column for each contender, and the costs."""
    names = [name for name in CONTENDERS if any(cell["contender"] == name for cell in cells)]
    lines = []
    for data, count in itertools.product(DATA, sorted({cell["rows"] for cell in cells})):
        here = [cell for cell in cells if (cell["data"], cell["rows"]) == (data, count)]
        scores = {name: [cell["accuracy"] for cell in here if cell["contender"] == name] for name in names}
        if here:
            lines.append({"data": data, "rows": count, **{name: _with_interval(scores[name]) for name in names}})
    for count in sorted({cell["rows"] for cell in cells}):
        spent = {n: [c["cpu_s"] for c in cells if (c["contender"], c["rows"]) == (n, count)] for n in names}
        medians = {name: round(statistics.median(values), 1) if values else None for name, values in spent.items()}
        lines.append({"data": "seconds", "rows": count, **medians})
    return lines


def _with_interval(scores: Sequence[float]) -> str | None:
    if not scores:
        return None
    mean, half = interval(list(scores))
    return f"{mean:.3f} ± {half:.3f} ({len(scores)})" if len(scores) > 1 else f"{mean:.3f} (1)"


def compared(cells: Sequence[Cell], reference: str) -> list[str]:
    """Return a line for each contender: its mean, and its difference to the reference in the cells that both have."""
    by_name: dict[str, dict[tuple[Any, ...], float]] = {}
    for cell in cells:
        by_name.setdefault(cell["contender"], {})[tuple(cell[key] for key in KEYS[1:])] = cell["accuracy"]
    lines = []
    for name, scores in by_name.items():
        both = sorted(scores.keys() & by_name[reference].keys())
        if both:
            mean, half = interval([scores[key] - by_name[reference][key] for key in both])
            own = statistics.mean(scores[key] for key in both)
            lines.append(f"{name}: {own:.4f} in {len(both)} cells, {mean:+.4f} ± {half:.4f} to {reference}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", type=Path)
    parser.add_argument("--contenders", nargs="*", default=list(CONTENDERS))
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--rows", nargs="*", type=int, default=[50, 200, 1000])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--against")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    order = itertools.product(range(given.seeds), given.rows, given.data, given.contenders)
    run(given.cells, [(name, data, count, seed) for seed, count, data, name in order])
    if given.against:
        print("\n".join(compared(kept(given.cells), given.against)))
    if given.json:
        report = Report("learning", table(kept(given.cells)))
        report.write(given.json)


if __name__ == "__main__":
    main()
