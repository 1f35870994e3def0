"""`opinions`: topic and sentiment of tweets, learned jointly by one LoRA on MiniLM.

Both tasks read the same texts, which are encoded once for both. Beside the rows stands `stream.jsonl`: held-out tweets
with made-up times, among them an hour with a surge of negative ones, for `hft monitor`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field

from hft_applications import packages, row_files, tweets
from hft_core import options

TOKENS = 48
"""Longest sequence; of these tweets, few are longer."""
DEV_ROWS, TEST_ROWS = 500, 1500
HOURS, PER_HOUR = 48, 80
"""Of the stream, which the texts outside of train, dev and test are drawn for."""
SURGE_HOUR, SURGE_TOPIC, SURGE_TEXTS = 36, "apple", 30
"""In this hour come so many more tweets on the topic, all of them negative."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

Row = tweets.Row


class Options(options.Options):
    """Which rows the recipe trains on."""

    rows: int = Field(default=2000, ge=100, le=12000, description="how many training rows")
    split_seed: int = Field(default=0, ge=0, description="draws the rows of train, dev, test and the stream")


def build(options: Options, *, folder: Path) -> dict[str, Any]:
    """Write the rows under `folder` and return the recipe that learns from them."""
    splits = split(tweets.read(tweets.data_file()), options)
    files = {name: row_files.write(folder / f"{name}.jsonl", splits[name]) for name in ("train", "dev", "test")}
    row_files.write(folder / "stream.jsonl", stream(splits["rest"], options.split_seed))
    return {
        "backbone": {"type": "hf-encoder", "model": packages.encoder(recipe="opinions", extra="opinions")},
        "tasks": {
            label: {"head": "classification", "label": label, "data": files, "max_length": TOKENS}
            for label in ("topic", "sentiment")
        },
        "stages": [
            {
                "name": "finetune",
                "tasks": ["topic", "sentiment"],
                "strategy": {"type": "lora", "r": 8},
                "per_device_train_batch_size": 64,  # rows of tasks: 32 texts, each with both labels
                "epochs": 3,
                "learning_rate": 1e-3,
            }
        ],
    }


def split(rows: list[Row], options: Options) -> dict[str, list[Row]]:
    """Draw `train`, `dev`, `test` and the `rest`."""
    order = random.Random(options.split_seed).sample(rows, len(rows))
    ends = [0, TEST_ROWS, TEST_ROWS + DEV_ROWS, TEST_ROWS + DEV_ROWS + options.rows, len(order)]
    names = ("test", "dev", "train", "rest")
    return {name: order[begin:end] for name, (begin, end) in zip(names, pairwise(ends), strict=True)}


def stream(rows: list[Row], seed: int) -> Iterator[Row]:
    """Draw `PER_HOUR` rows for each hour, and those of the surge, each with its `time`, in the order of time."""
    draw = random.Random(seed)
    surging = [row for row in rows if (row["topic"], row["sentiment"]) == (SURGE_TOPIC, "negative")]
    more = surging[:SURGE_TEXTS]
    taken = {row["text"] for row in more}
    others = iter([row for row in rows if row["text"] not in taken])
    for hour in range(HOURS):
        texts = [next(others) for _ in range(PER_HOUR)] + (more if hour == SURGE_HOUR else [])
        seconds = sorted(draw.sample(range(3600), len(texts)))
        for second, row in zip(seconds, draw.sample(texts, len(texts)), strict=True):
            yield {"time": (BEGIN + timedelta(hours=hour, seconds=second)).isoformat(), **row}
