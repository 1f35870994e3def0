"""How long `hft` takes to say something, and to begin the first training step.

python tests/benchmarks/startup.py [--rounds N] [--rows N] [--json PATH]

Processes from their start on, those that are compared in turn; what each reads from the disk was read before. A command
that only says something stands beside a Python that does nothing, and beside itself with many third-party
distributions installed. The first step of a recipe (classification of so many rows, which an earlier run tokenized, as
it measured the machine's precision) stands beside a script that imports torch and transformers and loads the same model
and its tokenizer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "distributions"))
import side_by_side
import workload
from strangers import healthy

from hft_core.device.gemm_speed import MEASUREMENTS

HERE = Path(__file__).parent
COMMANDS = {
    "hft list-plugins": ("list-plugins", 5.0),
    "hft --help": ("--help", 5.0),
    "hft --version": ("--version", None),
}
"""What is called, and the goal."""
THIRD_PARTY = (10, 30)
STRATEGIES = ("full", "frozen", "lora")


def seconds(*arguments: str, path: str = "", **environment: str) -> float:
    """The time that a Python takes; `path`: folders that it looks for modules in."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
    return time.perf_counter() - start


def installed(number: int, folder: Path) -> str:
    """A folder with so many small distributions, as a value of PYTHONPATH."""
    target = folder / f"site-{number}"
    target.mkdir()
    wheels = [str(stranger.wheel(folder)) for stranger in healthy(number)]
    if wheels:
        pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
        subprocess.run([sys.executable, *pip, *wheels], check=True, stderr=subprocess.DEVNULL)
    return str(target)


def compared(
    report: side_by_side.Report,
    rounds: int,
    what: tuple[str, Callable[[], float]],
    beside: tuple[str, Callable[[], float]],
    goal: float | None,
) -> None:
    """One line: the times of two processes in turn, and their ratio."""
    found = {name: [] for name, _ in (what, beside)}
    for turn in range(rounds + 1):
        for name, run in (what, beside):
            spent = run()
            found[name] += [spent] if turn else []  # what is read from disk the first time is not counted
    ours, theirs = found[what[0]], found[beside[0]]
    report.add(
        what=what[0],
        seconds=statistics.median(ours),
        beside=beside[0],
        its_seconds=statistics.median(theirs),
        ratio=statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        goal=goal,
    )


def commands(report: side_by_side.Report, rounds: int) -> None:
    for name, (argument, goal) in COMMANDS.items():
        run = (name, lambda argument=argument: seconds("-m", "hft_core", argument))
        compared(report, rounds, run, ("python -c pass", lambda: seconds("-c", "pass")), goal)


def third_parties(report: side_by_side.Report, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        for number in THIRD_PARTY:
            path = installed(number, Path(place))
            run = (
                f"hft list-plugins, {number} more distributions",
                lambda path=path: seconds("-m", "hft_core", "list-plugins", path=path),
            )
            compared(report, rounds, run, ("hft list-plugins", lambda: seconds("-m", "hft_core", "list-plugins")), None)


def first_steps(report: side_by_side.Report, rounds: int, rows: int) -> None:
    model = workload.model_folder()
    by_hand = ("torch, transformers, model, tokenizer", lambda: seconds(str(HERE / "by_hand.py"), model))
    with tempfile.TemporaryDirectory() as place:
        for strategy in STRATEGIES:
            begin = beginning(strategy, Path(place), rows)
            for _ in range(MEASUREMENTS):  # so many runs look at the machine, later ones remember it
                begin()
            compared(report, rounds, (f"hft run, first step, {strategy}", begin), by_hand, 1.5)


def beginning(strategy: str, folder: Path, rows: int) -> Callable[[], float]:
    """A call that starts a recipe anew and gives the seconds up to its first step."""
    chosen, data = workload.recipe({"topic": workload.texts("short", rows)}, 1, strategy=strategy)
    file, recipe, number = folder / "rows.jsonl", folder / f"{strategy}.yaml", count()
    file.write_text("".join(json.dumps(row) + "\n" for row in data["topic"]["train"]), encoding="utf-8")
    chosen["tasks"]["topic"]["data"] = {"train": str(file)}
    recipe.write_text(json.dumps(chosen), encoding="utf-8")  # JSON is YAML

    def begin() -> float:
        output = folder / f"{strategy}-{next(number)}"
        plugin = str(HERE / "first_step.py")
        return seconds(
            *("-m", "hft_core", "run", str(recipe), "--out", str(output), "--plugin", plugin),
            HFT_CACHE=str(folder / "cache"),
        )

    return begin


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=11, rows=3000)
    report = side_by_side.Report("startup")
    commands(report, settings.rounds)
    third_parties(report, settings.rounds)
    first_steps(report, settings.rounds, settings.rows)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
