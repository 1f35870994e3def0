"""How long `hft` takes to say something, against a Python that does nothing, and what third-party plugins add to it.

Paired runs, the median of the ratios; and the modules that are loaded, which do not depend on how busy the machine is.

python tests/benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "distributions"))
from strangers import healthy

COMMANDS = {
    "hft list-plugins": ["-m", "hft_core", "list-plugins"],
    "hft --help": ["-m", "hft_core", "--help"],
    "hft --version": ["-m", "hft_core", "--version"],
}
THIRD_PARTY = (0, 10, 30)
COUNT = (
    "import sys; from hft_core.cli import main; main(['list-plugins']); "
    "print(len(sys.modules), 'torch' in sys.modules, file=sys.stderr)"
)


def seconds(*arguments: str, path: str = "") -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
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


def against_nothing(pairs: int) -> None:
    for name, arguments in COMMANDS.items():
        seconds(*arguments), seconds("-c", "pass")  # what is read from disk the first time is not counted
        runs = [(seconds(*arguments), seconds("-c", "pass")) for _ in range(pairs)]
        ours, bare = (statistics.median(column) for column in zip(*runs, strict=True))
        ratio = statistics.median(a / b for a, b in runs)
        show(command=name, pairs=pairs, seconds=round(ours, 4), bare=round(bare, 4), ratio=round(ratio, 2))


def by_third_parties(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = {number: installed(number, folder) for number in THIRD_PARTY}
        times: dict[int, list[float]] = {number: [] for number in THIRD_PARTY}
        for turn in range(pairs + 1):
            for number, path in paths.items():
                spent = seconds("-m", "hft_core", "list-plugins", path=path)
                times[number] += [spent] if turn else []
        for number, path in paths.items():
            more = statistics.median(a - b for a, b in zip(times[number], times[0], strict=True))
            done = subprocess.run(
                [sys.executable, "-c", COUNT],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            modules, torch = done.stderr.split()[-2:]
            show(
                third_party=number,
                seconds=round(statistics.median(times[number]), 4),
                ms_a_distribution=round(1000 * more / number, 2) if number else 0,
                modules=int(modules),
                torch=torch == "True",
            )


def show(**facts: object) -> None:
    print(json.dumps(facts))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    against_nothing(count)
    by_third_parties(count)
