"""Four tasks on the BBC articles under one shared and one private LoRA a task, with one combiner after another: the
topic of an article, whether a headline belongs to it, which of four headlines does, and the language itself, replayed.

python tests/benchmarks/news_mix.py [STEPS [COMBINER ...]]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import hft_core
from hft_plugins.recipes import demo

COMBINERS = ("sum", "uncertainty", "famo", "pcgrad", "upgrad")
OTHERS = 3
"""Headlines of other articles beside the right one."""


def ranked(folder: Path, split: str) -> str:
    """A file of queries (an article each) with the right headline and those of other articles of the split."""
    with open(folder / f"match-{split}.jsonl", encoding="utf-8") as file:
        right = [row for row in map(json.loads, file) if row["fits"] == "yes"]
    draw = random.Random(1)
    path = folder / f"headline-{split}.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(right):
            others = [other["headline"] for other in draw.sample(right, OTHERS + 1) if other is not row][:OTHERS]
            for headline, relevance in ((row["headline"], 1), *((other, 0) for other in others)):
                line = {"id": number, "article": row["article"], "headline": headline, "relevance": relevance}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return str(path)


def recipe(folder: Path, combiner: str, steps: int) -> dict[str, Any]:
    """The demonstration's backbone and tasks, with the ranking beside them, in one stage."""
    made = demo.build(demo.Options(), folder=folder)
    tasks = made["tasks"]
    tasks["language"]["replay"] = True
    tasks["headline"] = {
        "head": {
            "type": "ranking",
            "query": "article",
            "document": "headline",
            "label": "relevance",
            "group_by": "id",
            "loss": "listwise",
        },
        "data": {split: ranked(folder, split) for split in ("train", "dev", "test")},
        "max_length": demo.TOKENS,
    }
    stage = {
        "strategy": {"type": "shared-task-lora", "r": 8, "task_r": 4},
        "combiner": combiner,
        "sampling": {"weights": {"headline": 0.5}},
        "max_steps": steps,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
    }
    return {"backbone": made["backbone"], "tasks": tasks, "stages": [stage]}


def main(steps: int, combiners: tuple[str, ...]) -> None:
    for combiner in combiners:
        with tempfile.TemporaryDirectory() as folder:
            result = hft_core.run(recipe(Path(folder), combiner, steps))
        (stage,) = result.stages
        line = {
            "combiner": combiner,
            "steps": steps,
            "test": {t: round(scores[result.main_metrics[t]], 4) for t, scores in result.final["test"].items()},
            "base_lm_loss": {t: {k: round(v, 3) for k, v in both.items()} for t, both in result.base_lm_loss.items()},
            "rows_per_s": round(stage.rows_per_s, 1),
            "seconds": round(result.seconds),
            "precision": result.precision,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, tuple(sys.argv[2:]) or COMBINERS)
