"""`films`: which films go together, and which a user will like, learned jointly by heads on a frozen MiniLM.

`match` learns that two films which the same users liked are near each other; `rank` reads what a user liked last beside
a film, and tells a film that the user liked later from others (listwise). Users of dev and test are in no training row.
Beside the rows stand `items.jsonl`, all films, and `users.jsonl`, the test users, for `hft recommend`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pydantic import Field

from hft_applications import movielens, packages, row_files
from hft_applications.recommending import RECENT, history_text
from hft_core import options

History = list[movielens.Rated]

TEST_USERS, DEV_USERS = 200, 100
DEV_PAIRS, DEV_LISTS = 200, 50
PAST = 0.8
"""Share of a test user's ratings, the first ones, that recommendations are made from."""
NEXT, OTHERS = 1, 3
"""Films that a user liked later, and films that the user has not rated, in a list of candidates of `rank`."""
NEAREST = 10
"""Films that the same users liked, of which `match` learns one beside a liked film."""
DAMPING = 20
"""Added to the denominator of that cosine, so that a few users who liked two films count for little."""
PROJECTION = 384
"""Size of an embedding."""
LEAST = 5
"""Users who liked fewer films are not learned from."""
MANY, SOME = 60, 20
"""Liked by so many training users."""


class Options(options.Options):
    """Which rows the recipe trains on."""

    pairs: int = Field(default=2500, ge=64, le=100_000, description="pairs of films for 'match'")
    lists: int = Field(default=250, ge=16, le=10_000, description="lists of candidates for 'rank'")
    users: int = Field(default=643, ge=20, le=643, description="how many training users")
    split_seed: int = Field(default=0, ge=0, description="draws the users of train, dev and test, and their rows")


def build(options: Options, *, folder: Path) -> dict[str, Any]:
    """Write the rows under `folder` and return the recipe that learns from them."""
    texts, histories = movielens.read(movielens.data_folder())
    draw = random.Random(options.split_seed)
    parts = split(list(histories.values()), options.users, draw)
    likes = Counter(rated.text for history in parts["train"] for rated in history if rated.liked)
    items = {text: item(text, likes[text]) for text in texts}
    row_files.write(folder / "items.jsonl", items.values())
    row_files.write(folder / "users.jsonl", test_users(parts["test"]))
    matches, candidates = {}, {}
    for name, count in (("train", options.pairs), ("dev", DEV_PAIRS)):
        matches[name] = row_files.write(folder / f"pairs-{name}.jsonl", pairs(parts[name], count, draw))
    for name, count in (("train", options.lists), ("dev", DEV_LISTS)):
        candidates[name] = row_files.write(folder / f"lists-{name}.jsonl", lists(parts[name], items, count, draw))
    return {
        "backbone": {"type": "hf-encoder", "model": packages.encoder(recipe="films", extra="films")},
        "tasks": {
            "match": {
                "head": "contrastive",
                "text": ["text", "other"],
                "projection_dim": PROJECTION,
                "max_length": 32,
                "data": matches,
            },
            "rank": {
                "head": "ranking",
                "document": "card",
                "group_by": "list",
                "loss": "listwise",
                "max_length": 128,
                "data": candidates,
            },
        },
        "stages": [
            {
                "name": "finetune",
                "tasks": ["match", "rank"],
                "strategy": "frozen",  # with as little data, a trunk that is trained learns less for new users
                "sampling": {"batch_size": {"match": 64, "rank": 8}},
                "epochs": 20,
                "eval_strategy": "no",
            }
        ],
    }


def item(text: str, likes: int) -> dict[str, Any]:
    """Return a row of the index: a film, and the `card` that `rank` reads, which says how well it is known."""
    known = "many" if likes >= MANY else "some" if likes >= SOME else "few"
    return {"text": text, "card": f"{text}, liked by {known}", "likes": likes}


def split(histories: list[History], train: int, draw: random.Random) -> dict[str, list[History]]:
    """Draw the users of `test`, `dev` and `train`."""
    order = draw.sample(histories, len(histories))
    test, dev = order[:TEST_USERS], order[TEST_USERS : TEST_USERS + DEV_USERS]
    return {"test": test, "dev": dev, "train": order[TEST_USERS + DEV_USERS :][:train]}


def test_users(histories: Iterable[History]) -> Iterator[dict[str, Any]]:
    """Yield what each user liked and disliked at first, and liked `next`; not those without anything liked in both."""
    for number, history in enumerate(histories, start=1):
        end = int(len(history) * PAST)
        liked, disliked = ([rated.text for rated in history[:end] if rated.liked is wanted] for wanted in (True, False))
        after = [rated.text for rated in history[end:] if rated.liked]
        if liked and after:
            yield {"user": number, "liked": liked, "disliked": disliked, "next": after}


def pairs(histories: Sequence[History], count: int, draw: random.Random) -> Iterator[dict[str, str]]:
    """Yield pairs of films, of each user as many: one that the user liked, and one that the same users liked."""
    near = liked_alike(histories)
    for history in _in_turn(histories, count, draw):
        first = draw.choice(_liked(history))
        yield {"text": first, "other": draw.choice(near[first])}


def liked_alike(histories: Sequence[History]) -> dict[str, list[str]]:
    """Return for each film those that the same users liked, by the damped cosine of the films' likes."""
    import numpy as np

    texts = sorted({text for history in histories for text in _liked(history)})
    number = {text: i for i, text in enumerate(texts)}
    likes = np.zeros((len(histories), len(texts)), np.float32)
    for user, history in enumerate(histories):
        likes[user, [number[text] for text in _liked(history)]] = 1
    lengths = np.sqrt(likes.sum(0))
    similar = (likes.T @ likes) / (np.outer(lengths, lengths) + DAMPING)
    np.fill_diagonal(similar, 0)
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :NEAREST]
    return {text: [texts[i] for i in own] for text, own in zip(texts, nearest, strict=True)}


def lists(
    histories: Sequence[History], items: Mapping[str, Mapping[str, Any]], count: int, draw: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `count` lists of candidates: films liked next, with the relevance 1, and others, with 0."""
    known = list(items)
    for number, history in enumerate(_in_turn(histories, count, draw)):
        liked, rated = _liked(history), {film.text for film in history}
        end = draw.randrange(RECENT, len(liked))
        after = draw.sample(liked[end:], min(NEXT, len(liked) - end))
        others = [text for text in draw.sample(known, len(rated) + OTHERS) if text not in rated][:OTHERS]
        candidates = [(text, 1) for text in after] + [(text, 0) for text in others]
        for text, label in draw.sample(candidates, len(candidates)):
            yield {"list": number, "query": history_text(liked[:end]), "card": items[text]["card"], "label": label}


def _in_turn(histories: Sequence[History], count: int, draw: random.Random) -> Iterator[History]:
    """Yield `count` of those with enough liked films, all of them before any one again."""
    enough = [history for history in histories if len(_liked(history)) >= LEAST]
    yield from islice(cycle(draw.sample(enough, len(enough))), count)


def _liked(history: History) -> list[str]:
    return [film.text for film in history if film.liked]
