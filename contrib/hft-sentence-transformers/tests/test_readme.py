"""What the README shows runs."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hft_core.cli import main
from hft_core.testing import toys

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def written(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def test_the_recipe_trains_an_embedding_model(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(folder(pooling="mean"))
    random = np.random.default_rng(0)
    sentences = [toys.sentence(i % 2, random) for i in range(24)]
    written(Path("pairs.csv"), ["question", "answer"], [[one, toys.sentence(0, random)] for one in sentences])
    written(Path("topics.csv"), ["text", "label"], [[one, "ab"[i % 2]] for i, one in enumerate(sentences)])
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    Path("embed.yaml").write_text(recipe)
    (command,) = [line for line in README.splitlines() if line.startswith("hft run")]
    assert main(shlex.split(command)[1:]) == 0
    (place,) = re.findall(r'SentenceTransformer\("(runs/.*?)"\)', README)
    assert library.SentenceTransformer(place, device="cpu").encode(sentences).shape == (24, 6)
