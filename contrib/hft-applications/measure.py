"""The scores of the README: `python measure.py FILE SEED…` adds a line of JSON for each arm and seed to FILE.

    python measure.py scores.jsonl 0 1 2 3 4
    python measure.py scores.jsonl

The second line prints means with 95 % intervals over the seeds (Student's t), also of the differences from the recipe.
A seed draws train, dev and test rows, and everything that is random in training. Needs `hft-applications[opinions]`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import t as student
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline

import hft_core
from hft_applications import opinions

TASKS = ("topic", "sentiment")
METRICS = ("accuracy", "f1_macro")
FULL_RATE = 5e-5
Scores = dict[str, dict[str, float]]


def rows(files: dict[str, str], split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in Path(files[split]).read_text(encoding="utf-8").splitlines()]


def tfidf(recipe: dict[str, Any]) -> Scores:
    """Words and pairs of words, logistic regression with the best of four strengths on dev."""
    files = recipe["tasks"]["topic"]["data"]
    train, dev, test = (rows(files, split) for split in ("train", "dev", "test"))
    scores = {}
    for task in TASKS:
        fitted = [
            make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=c, max_iter=2000)
            ).fit([row["text"] for row in train], [row[task] for row in train])
            for c in (1, 3, 10, 30)
        ]
        best = max(fitted, key=lambda model: model.score([row["text"] for row in dev], [row[task] for row in dev]))
        found, right = best.predict([row["text"] for row in test]), [row[task] for row in test]
        scores[task] = {
            "accuracy": float(accuracy_score(right, found)),
            "f1_macro": float(f1_score(right, found, average="macro")),
        }
    return scores


def arms(recipe: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the recipe's own arm and the others, each as the recipes whose scores it joins."""
    (stage,), tasks = recipe["stages"], recipe["tasks"]
    yield "recipe", [recipe]
    full = stage | {"strategy": "full", "learning_rate": FULL_RATE, "per_device_train_batch_size": 32}
    yield (
        "full, one model a task",
        [recipe | {"tasks": {task: tasks[task]}, "stages": [full | {"tasks": [task]}]} for task in TASKS],
    )


def measure(out: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        made = opinions.build(opinions.Options(split_seed=seed), folder=Path(place))
        recipe = made | {"precision": "fp32", "seed": seed}
        began = time.process_time()
        note(out, "TF-IDF and logistic regression", seed, tfidf(recipe), time.process_time() - began)
        for arm, recipes in arms(recipe):
            began, scores = time.process_time(), {}
            for each in recipes:
                scores |= hft_core.run(each).final["test"]
            note(out, arm, seed, scores, time.process_time() - began)


def note(out: Path, arm: str, seed: int, scores: Scores, seconds: float) -> None:
    line = {"arm": arm, "seed": seed, "seconds": round(seconds)}
    kept = {task: {metric: scores[task][metric] for metric in METRICS} for task in TASKS}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | kept) + "\n")


def interval(values: list[float]) -> str:
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} ± {half:.3f}"


def summary(out: Path) -> None:
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for line in map(json.loads, out.read_text(encoding="utf-8").splitlines()):
        found[line["arm"]][line["seed"]] = line
    for arm, by_seed in found.items():
        print(f"{arm}: {len(by_seed)} seeds, {statistics.mean(line['seconds'] for line in by_seed.values()):.0f} s")
        for task in TASKS:
            for metric in METRICS:
                mine = [line[task][metric] for line in by_seed.values()]
                both = [seed for seed in by_seed if seed in found["recipe"]]
                apart = [by_seed[seed][task][metric] - found["recipe"][seed][task][metric] for seed in both]
                print(f"  {task} {metric}: {interval(mine)}, minus the recipe's: {interval(apart)}")


if __name__ == "__main__":
    file, *seeds = sys.argv[1:]
    for each_seed in map(int, seeds):
        measure(Path(file), each_seed)
    if not seeds:
        summary(Path(file))
