"""What grows with the rows (10³ to 10⁶), the tasks (1 to 64) and the plugins (0 to 100), and what stays flat.

python tests/benchmarks/growth.py [--rounds N] [--rows N] [--tasks N] [--plugins N] [--json PATH]

Times are seconds. `memory` is what a process holds of its own (not the pages of files that are mapped, which the system
takes back when it needs them) at most in a phase, in MiB beyond what it held after its imports. `again` is the second
run over the same rows. `planning share` is the time to plan an epoch over the time to train it, the model being the
encoder of the other benchmarks. A task's `own work a step` is all but forward, backward and optimizer.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ours
import side_by_side
import startup
import workload

BATCH = 32
WORDS = (
    "the",
    "of",
    "cat",
    "house",
    "river",
    "market",
    "price",
    "team",
    "player",
    "goal",
    "film",
    "election",
    "company",
)


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, rows=10**6, tasks=64, plugins=100)
    report = side_by_side.Report("growth")
    by_rows(report, settings.rows)
    by_tasks(report, settings.tasks, settings.rounds)
    by_plugins(report, settings.plugins, settings.rounds)
    side_by_side.finish(report, settings.json)


# --- rows


def by_rows(report: side_by_side.Report, most: int) -> None:
    watch, _ = ours.trained({"topic": workload.texts("short", 2000)}, 10)
    for count in (10**power for power in range(3, 7) if 10**power <= most):
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "rows.jsonl"
            write_rows(file, count)
            first, again = (in_process(file, Path(place) / "cache") for _ in range(2))
        report.add(
            rows=count,
            reading=first["reading"],
            tokenizing=first["tokenizing"],
            again=again["tokenizing"],
            planning=first["planning"],
            planning_share=first["planning"] / (first["planned"] / watch.rate),
            memory_reading=first["reading memory"],
            memory_tokenizing=first["tokenizing memory"],
            memory_after=first["after"],
        )


def write_rows(file: Path, count: int) -> None:
    """Texts of 8 to 40 tokens with one of four labels."""
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(count):
            text = " ".join(draw.choices(WORDS, k=draw.randint(6, 38)))
            out.write(json.dumps({"text": text, "topic": draw.choice("abcd")}) + "\n")


def in_process(file: Path, cache: Path) -> dict[str, float]:
    """The figures of a process that has done nothing before."""
    done = subprocess.run(
        [sys.executable, __file__, "--of", str(file)],
        env={**os.environ, "HFT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def of_rows(file: str) -> dict[str, float]:
    """Seconds and memory of reading, tokenizing and planning the rows of a file."""
    from hft_core.batching.mixture import Mixture
    from hft_core.batching.plan import Plan
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe import recipe_file
    from hft_core.recipe.resolve import resolve
    from hft_core.recipe.stage import Sampling
    from hft_core.runs import assembly

    chosen, _ = workload.recipe({"topic": []}, 1)
    chosen["tasks"]["topic"]["data"] = {"files": file}
    resolved = resolve(recipe_file.from_dict(chosen), Catalogue.discover())
    heads = assembly.build_heads(resolved)
    backbone = assembly.open_backbone(resolved, trust_remote_code=False)
    backbone.tokenizer(["warm"])
    found: dict[str, float] = {}
    base = own_memory()
    with measured(found, "reading", base):
        rows = assembly.load_rows(resolved, heads, {})
    model = assembly.attach(backbone, heads)
    with measured(found, "tokenizing", base):
        examples = assembly.tokenize(resolved, rows, model)
    lengths = {"topic": examples["train"]["topic"].lengths}
    units = len(lengths["topic"])
    with measured(found, "planning", base):
        mixture = Mixture({"topic": units}, Sampling())
        plan = Plan(lengths, mixture, batch=BATCH, total=units, seed=0, stage=0)
        for step in range(plan.steps):
            plan.step(step)
    return {**found, "planned": units, "after": own_memory() - base}


@contextmanager
def measured(found: dict[str, float], name: str, base: float) -> Iterator[None]:
    ended = threading.Event()
    seen = [own_memory()]

    def look() -> None:
        while not ended.wait(0.01):
            seen.append(own_memory())

    watching = threading.Thread(target=look)
    watching.start()
    started = time.perf_counter()
    try:
        yield
    finally:
        found[name] = time.perf_counter() - started
        ended.set()
        watching.join()
        found[f"{name} memory"] = max(seen) - base


def own_memory() -> float:
    """MiB of the process's memory that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


# --- tasks


def by_tasks(report: side_by_side.Report, most: int, rounds: int) -> None:
    """The same texts and steps, divided among more and more tasks."""
    texts = workload.texts("short", 6400)
    for count in (4**power for power in range(4) if 4**power <= most):
        own, ratios, starting = [], [], []
        for _ in range(rounds):
            began = time.perf_counter()
            watch, result = ours.trained(
                {f"topic{i}": texts[i::count] for i in range(count)},
                10,
                per_device_train_batch_size=max(BATCH, 64),
            )
            seconds = result.stages[0].seconds
            inside = sum(seconds[part] for part in ("forward", "backward", "optimizer"))
            outside = seconds["data"] + seconds["other"]
            own.append(1000 * outside / watch.steps)
            ratios.append(outside / (inside + outside))
            starting.append(time.perf_counter() - began - seconds["total"])
        report.add(
            tasks=count,
            own_ms_a_step=statistics.median(own),
            share_of_step=statistics.median(ratios),
            start=statistics.median(starting),
        )


# --- plugins


def by_plugins(report: side_by_side.Report, most: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        paths = {n: startup.installed(n, Path(place)) for n in (0, 10, 100) if n <= most}
        command = ("-m", "hft_core", "list-plugins")
        times: dict[int, list[float]] = {number: [] for number in paths}
        for turn in range(2 * rounds + 1):
            for number, path in paths.items():
                spent = startup.seconds(*command, path=path)
                times[number] += [spent] if turn else []
    for number, spent in times.items():
        more = statistics.median(a - b for a, b in zip(spent, times[0], strict=True))
        each = 1000 * more / number if number else 0.0
        report.add(plugins=number, list_plugins=statistics.median(spent), ms_a_plugin=each)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--of"]:
        print(json.dumps(of_rows(sys.argv[2])))
    else:
        main()
