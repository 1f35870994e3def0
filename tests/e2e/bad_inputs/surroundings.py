"""The good inputs around a bad one: a table, texts, a recipe, a tiny encoder, and runs that were made of them."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECIPE = """\
backbone: model
tasks:
  topic:
    head: classification
    data: news.csv
  language:
    head: mlm
    data: articles.txt
stages:
  - name: train
    tasks: [topic, language]
    strategy: {type: lora, r: 2}
    combiner: sum
    max_steps: 2
"""
TWO_STAGES = (
    RECIPE.replace("backbone", "output: {save_strategy: steps, save_steps: 1}\nbackbone", 1)
    + "  - {name: more, tasks: [topic, language], strategy: full, max_steps: 2}\n"
)
ROWS = 24


class Surroundings:
    """Folders with good inputs."""

    def __init__(self, place: Path, models: Any, rows: list[dict[str, Any]]) -> None:
        """`place`: for what is made once; `models`: folders by name."""
        self.place, self.models, self.rows = place, models, rows
        self.template = place / "user"
        self._write(self.template)

    def copy_to(self, folder: Path, needs: tuple[str, ...]) -> None:
        """Fill a folder, with what a case needs beside the usual."""
        shutil.copytree(self.template, folder, dirs_exist_ok=True)
        for name in needs:
            made = {"decoder": lambda: self.models["llama"], "index": self._index}
            source = made[name]() if name in made else self._run(name)
            shutil.copytree(source, folder / name)

    def _write(self, folder: Path) -> None:
        folder.mkdir()
        with open(folder / "news.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        (folder / "articles.txt").write_text("".join(row["other"] + "\n" for row in self.rows))
        (folder / "recipe.yaml").write_text(RECIPE)
        shutil.copytree(self.models["bert"], folder / "model")

    def _index(self) -> Path:
        """The folder of an index of the table's texts, made with `done`."""
        made = self.place / "index"
        if not made.exists():
            from hft_core import Catalogue, open_run
            from hft_core.search import build_index

            build_index(open_run(self._run("done"), Catalogue.discover()), self.template / "news.csv", made, "topic")
        return made

    def _run(self, name: str) -> Path:
        """The folder of a run that was finished (`done`) or stopped after its first stage (`stopped`)."""
        made = self.place / name
        if made.exists():
            return made
        from hft_core import session
        from hft_core.recipe.recipe_file import load, parse

        recipe = load(parse(TWO_STAGES, "recipe.yaml", self.template))
        with session(recipe, output=made) as opened:
            opened.run_stage()
            if name == "done":
                opened.run_stage()
                opened.finish()
        return made


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With `folder` as the working folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
