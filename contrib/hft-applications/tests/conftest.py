"""What the tests have in common: a run whose model is tiny, trained on made-up tweets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

ABOUT = {"airlines": ("the flight", "the plane"), "phones": ("the screen", "the battery")}
SAID = {"negative": "is bad", "positive": "is good"}


@pytest.fixture(scope="session")
def tweets() -> list[dict[str, str]]:
    """Rows that a tiny model can learn."""
    return [
        {"text": f"{thing} {said}", "topic": topic, "sentiment": sentiment}
        for topic, things in ABOUT.items()
        for thing in things
        for sentiment, said in SAID.items()
    ]


@pytest.fixture(scope="session")
def run(tweets: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that knows the topic and sentiment of each of the tweets."""
    import hft_core
    from hft_core.testing import trunks

    folder = tmp_path_factory.mktemp("runs") / "opinions"
    recipe: dict[str, Any] = {
        "backbone": {"model": str(trunks.folder("BERT"))},
        "tasks": {label: {"head": "classification", "label": label} for label in ("topic", "sentiment")},
        "stages": [{"learning_rate": 5e-3, "per_device_train_batch_size": 16, "num_train_epochs": 60}],
        "precision": "fp32",
    }
    data = {"train": tweets * 2, "dev": tweets}
    result = hft_core.run(recipe, data=dict.fromkeys(recipe["tasks"], data), output=folder)
    assert all(scores["accuracy"] == 1 for scores in result.final["dev"].values()), result.final
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The model is so small that more threads only get into each other's way."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
