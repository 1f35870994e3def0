"""How long `hft` takes to say something, against a Python that does nothing: paired runs, the median of the ratios.

python tests/benchmarks/startup.py [PAIRS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "hft list-plugins": ["-m", "hft_core", "list-plugins"],
    "hft --help": ["-m", "hft_core", "--help"],
    "hft --version": ["-m", "hft_core", "--version"],
}


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(pairs: int) -> None:
    for name, arguments in COMMANDS.items():
        seconds(*arguments), seconds("-c", "pass")  # what is read from disk the first time is not counted
        runs = [(seconds(*arguments), seconds("-c", "pass")) for _ in range(pairs)]
        ours, bare = (statistics.median(column) for column in zip(*runs, strict=True))
        ratio = statistics.median(a / b for a, b in runs)
        print(
            json.dumps(
                {
                    "command": name,
                    "pairs": pairs,
                    "seconds": round(ours, 4),
                    "python -c pass": round(bare, 4),
                    "ratio": round(ratio, 2),
                }
            )
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 11)
