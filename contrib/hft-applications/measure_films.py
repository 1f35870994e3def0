"""The scores of the recommendations in the README: `python measure_films.py FILE SEED…` adds lines of JSON to FILE.

    python measure_films.py scores.jsonl 1 2 3
    python measure_films.py scores.jsonl --lora 1 2 3
    python measure_films.py scores.jsonl

`--lora` measures a LoRA instead, with one pass over the rows. The last line prints means with 95 % intervals over the
seeds (Student's t). A seed draws train, dev and test users and their rows, and everything that is
random in training. Needs `hft-applications[films]` and recbole.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

import hft_core
from hft_applications import films, movielens, recommend, recommending
from hft_core import Catalogue, open_run
from hft_core.search import build_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

K, CANDIDATES, NEIGHBORS, WEIGHT = 10, 20, 500, 0.5
METRICS = ("ndcg", "recall", "coverage")


def by_users(items: recommending.Items, seed: int) -> recommending.Scores:
    """Score by the films that the same training users liked: the mean cosine of their columns of likes."""
    texts, histories = movielens.read(movielens.data_folder())
    draw = random.Random(seed)
    train = films.split(list(histories.values()), films.Options().users, draw)["train"]
    number = {text: i for i, text in enumerate(items.texts)}
    likes: NDArray[np.float64] = np.zeros((len(train), len(texts)))
    for user, history in enumerate(train):
        likes[user, [number[film.text] for film in history if film.liked]] = 1
    together, counts = likes.T @ likes, np.maximum(likes.sum(0), 1)
    similar = together / np.sqrt(np.outer(counts, counts))
    np.fill_diagonal(similar, 0)
    return lambda user: similar[[number[text] for text in user.liked]].mean(0)


def measure(out: Path, seed: int, *, lora: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, run = Path(place) / "data", Path(place) / "run"
        made = films.build(films.Options(split_seed=seed), folder=folder)
        (stage,) = made["stages"]
        if lora:
            stage = stage | {"strategy": {"type": "lora", "r": 16}, "learning_rate": 1e-3, "epochs": 1}
        began = time.process_time()
        hft_core.run(made | {"precision": "fp32", "seed": seed, "stages": [stage]}, output=run)
        seconds = time.process_time() - began
        saved = open_run(run, Catalogue.discover(), merge=True)
        index = build_index(saved, folder / "items.jsonl", Path(place) / "index", "match", text="text")
        items = recommending.Items(index)
        users = recommending.users_of(str(folder / "users.jsonl"), liked="liked", seen=["disliked"], after="next")
        likes, ranker = items.numbers("likes"), recommending.Ranker(saved, "rank", items)
        name = "LoRA" if lora else "films"
        nearness = recommending.Nearness(index, items, NEIGHBORS)
        for power in (0.0, 1.0, WEIGHT):
            nearness.weights = likes**power
            found = recommend.recommended(users, items, nearness, None, k=K, candidates=CANDIDATES)
            lists = [[one.number for one in own] for own in found]
            note(out, f"{name}, weight {power:g}", seed, seconds, lists, users, items)
        if not lora:
            words = recommending.by_tfidf(items)
            simple = {
                "popularity": lambda _: likes,
                "TF-IDF similarity": words,
                "TF-IDF similarity, weight 0.5": lambda user: words(user) * likes**0.5,
                "TF-IDF similarity, weight 1": lambda user: words(user) * likes,
                "users who liked the same": by_users(items, seed),
            }
            for arm, scores in simple.items():
                lists = [recommending.top(scores(user), user, items.texts, K) for user in users]
                note(out, arm, seed, 0, lists, users, items)
        found = recommend.recommended(users, items, nearness, ranker, k=K, candidates=CANDIDATES)
        reranked = [[one.number for one in own] for own in found]
        note(out, f"{name}, weight {WEIGHT:g}, --rerank rank", seed, seconds, reranked, users, items)


def note(out: Path, arm: str, seed: int, seconds: float, lists: Any, users: Any, items: Any) -> None:
    found = recommend.scores(lists, users, items, K)
    line = {"arm": arm, "seed": seed, "seconds": round(seconds), "users": found.users}
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line | {metric: getattr(found, metric) for metric in METRICS}) + "\n")


def summary(out: Path) -> None:
    found: dict[str, list[Any]] = defaultdict(list)
    for line in map(json.loads, out.read_text(encoding="utf-8").splitlines()):
        found[line["arm"]].append(line)
    for arm, lines in found.items():
        seconds = statistics.mean(line["seconds"] for line in lines)
        print(f"{arm}: seeds {[line['seed'] for line in lines]}, {seconds:.0f} s")
        for metric in METRICS:
            values = [line[metric] for line in lines]
            many = len(values) > 1
            half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if many else 0
            print(f"  {metric}: {statistics.mean(values):.3f}{f' ± {half:.3f}' if many else ''}")


if __name__ == "__main__":
    file, *arguments = sys.argv[1:]
    seeds = [int(each) for each in arguments if each != "--lora"]
    for each_seed in seeds:
        measure(Path(file), each_seed, lora="--lora" in arguments)
    if not seeds:
        summary(Path(file))
