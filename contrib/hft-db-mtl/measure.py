"""What db-mtl promises, measured: two tasks on MiniLM whose losses differ by a factor of some hundreds.

    python measure.py

Needs `hft-core[demo]`. Of each BBC news article, cut to 24 tokens, the topic (cross-entropy, 1.6 at first) and how many
characters its headline has (squared error, about 1,000 at first) are learned, under one LoRA.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import hft_core
from hft_core import Catalogue

STEPS, BATCH, TOKENS, ROWS = 60, 16, 24, {"train": 1200, "dev": 20, "test": 200}
SEEDS = (0, 1)
COMBINERS: list[tuple[str, list[str], dict[str, Any] | None]] = [
    ("topic alone", ["topic"], None),
    ("sum", ["topic", "length"], {"type": "sum"}),
    ("uncertainty", ["topic", "length"], {"type": "uncertainty"}),
    ("db-mtl", ["topic", "length"], {"type": "db-mtl"}),
    ("db-mtl, beta 0", ["topic", "length"], {"type": "db-mtl", "beta": 0.0}),
    ("db-mtl, representation", ["topic", "length"], {"type": "db-mtl", "at": "representation"}),
]


def prepared(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """The encoder of hft's demo, and rows made of its matching pairs and topics."""
    catalogue = Catalogue.discover()
    demo = catalogue.get("recipe", "demo")
    made = catalogue.load_factory(demo)(catalogue.load_options(demo)(), folder=folder)
    rows = {}
    for split, count in ROWS.items():
        lines = (folder / f"topic-{split}.jsonl").read_text().splitlines()[:count]
        articles = [json.loads(line) for line in lines]
        for article in articles:
            article["length"] = float(len(article["text"].partition(". ")[0]))
        rows[split] = articles
    return made["backbone"], rows


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        backbone, rows = prepared(Path(place))
        for name, tasks, combiner in COMBINERS:
            began, scores = time.perf_counter(), []
            for seed in SEEDS:
                known = {
                    "topic": {"head": "classification", "label": "topic", "max_length": TOKENS},
                    "length": {
                        "head": {"type": "regression", "label": "length", "standardize": False},
                        "max_length": TOKENS,
                    },
                }
                stage = {
                    "strategy": {"type": "lora", "r": 8},
                    "learning_rate": 1e-3,
                    "max_steps": STEPS,
                    "per_device_train_batch_size": BATCH,
                    "eval_strategy": "no",
                } | ({"combiner": combiner} if combiner else {})
                recipe = {
                    "backbone": backbone,
                    "tasks": {task: known[task] for task in tasks},
                    "stages": [stage],
                    "precision": "fp32",
                    "seed": seed,
                }
                scores.append(hft_core.run(recipe, data=dict.fromkeys(tasks, rows)).final["test"])
            topic = [f"{score['topic']['accuracy']:.3f}" for score in scores]
            length = [f"{score['length']['mae']:.1f}" for score in scores if "length" in score]
            print(
                f"{name:24} topic accuracy {', '.join(topic)}  length mean error {', '.join(length)}  "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
