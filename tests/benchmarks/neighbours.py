"""Rows a second of hft beside two neighbours, each in an environment of its own that this script installs.

python tests/benchmarks/neighbours.py [--rounds N] [--steps N] [--json PATH]

`adapters` (AdapterTrainer; it needs an older transformers) trains one task, sentence-transformers' trainer four data
sets in turn, with a loss for each; hft the same rows as one task, and as four tasks mixed in every batch. Both
neighbours run as they come. Loading, tokenizing and the first three steps do not count. The environments stay in the
folder that HFT_BENCHMARK_ENVIRONMENTS names, or go with the temporary one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ours
import side_by_side
import workload

STRATEGIES = {"full": "full", "lora": {"type": "lora", "r": 8}, "frozen": "frozen"}
NEIGHBOURS: dict[str, tuple[list[str], list[str]]] = {
    "adapters": (["adapters", "datasets", "accelerate"], ["full", "lora", "frozen"]),
    "sentence_transformers": (
        ["sentence-transformers[train]", "peft", f"transformers=={importlib.metadata.version('transformers')}"],
        ["full", "lora"],
    ),
}
"""What is installed for each, and the strategies that it has. A newer transformers than ours may ask for a PEFT that is
not out yet."""


def environment(folder: Path, name: str) -> Path:
    """The Python of a fresh environment with what the neighbour needs, and this one's torch."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        constraint = folder / f"{name}.txt"
        constraint.write_text(f"torch=={importlib.metadata.version('torch').split('+')[0]}\n", encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(constraint)]
        subprocess.run([*pip, *NEIGHBOURS[name][0]], check=True)
    return python


def rate(python: Path, name: str, rows: Path, strategy: str, steps: int) -> float:
    script = Path(__file__).parent / "neighbours" / f"{name}_loop.py"
    done = subprocess.run(
        [str(python), str(script), str(rows), workload.model_folder(), strategy, str(steps)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return float(json.loads(done.stdout.splitlines()[-1])["rows_per_s"])


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=25)
    report = side_by_side.Report("neighbours")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("HFT_BENCHMARK_ENVIRONMENTS", temporary))
        for kind in ("short", "mixed"):
            texts = workload.texts(kind, 4000)
            rows = Path(temporary) / f"{kind}.json"
            rows.write_text(json.dumps(texts), encoding="utf-8")
            for name, (_, strategies) in NEIGHBOURS.items():
                python = environment(folder, name)
                labels = ["topic"] if name == "adapters" else list(workload.LABELS)
                tasks = {label: texts[i :: len(labels)] for i, label in enumerate(labels)}
                for strategy in strategies:
                    contenders: dict[str, Callable[[], float]] = {
                        "hft": lambda tasks=tasks, strategy=strategy: (
                            ours.trained(tasks, settings.steps, strategy=STRATEGIES[strategy])[0].rate
                        ),
                        name: lambda python=python, name=name, rows=rows, strategy=strategy: rate(
                            python, name, rows, strategy, settings.steps
                        ),
                    }
                    found = side_by_side.in_turn(contenders, settings.rounds)
                    report.add(
                        texts=kind,
                        strategy=strategy,
                        tasks=len(labels),
                        neighbour=name.replace("_", "-"),
                        its_rows_per_s=sorted(found[name])[settings.rounds // 2],
                        hft_is_times=side_by_side.ratio(found, "hft", name),
                    )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
