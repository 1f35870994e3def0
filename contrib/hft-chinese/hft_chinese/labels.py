"""Name the labels of the CLUE tasks: those of a task's definition, and those of a folder's `labels.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hft_core.data import as_label, read_file, shown
from hft_core.errors import DataError

DESCRIPTIONS = ("label_desc", "label_des")
"""The keys under which CLUE's files say what a label is called: the one of TNEWS, and the one of IFLYTEK."""

TNEWS = {
    "100": "news_story",
    "101": "news_culture",
    "102": "news_entertainment",
    "103": "news_sports",
    "104": "news_finance",
    "106": "news_house",
    "107": "news_car",
    "108": "news_edu",
    "109": "news_tech",
    "110": "news_military",
    "112": "news_travel",
    "113": "news_world",
    "114": "news_stock",
    "115": "news_agriculture",
    "116": "news_game",
}
"""The 15 labels of TNEWS, as its `labels.json` describes them."""

TNEWS_CHINESE = {
    "100": "故事",
    "101": "文化",
    "102": "娱乐",
    "103": "体育",
    "104": "财经",
    "106": "房产",
    "107": "汽车",
    "108": "教育",
    "109": "科技",
    "110": "军事",
    "112": "旅游",
    "113": "国际",
    "114": "股票",
    "115": "农业",
    "116": "游戏",
}
"""The same in Chinese: the sections of the news site that the headlines come from."""

SAME_MEANING = {"0": "不同", "1": "相同"}
"""AFQMC: whether two questions mean the same."""

KEYWORDS = {"0": "有误", "1": "全对"}
"""CSL: whether all keywords are those of the abstract."""

INFERENCE = {"entailment": "蕴含", "neutral": "中立", "contradiction": "矛盾"}
"""CMNLI and OCNLI: how the second sentence follows from the first."""

CLUENER = ("address", "book", "company", "game", "government", "movie", "name", "organization", "position", "scene")
"""The ten types of entities."""


def read_labels(path: Path) -> dict[str, str]:
    """Return the name of each label of a `labels.json`. Raises `DataError`, with the line."""
    rows = read_file(str(path), "jsonl", "line")
    found: dict[str, str] = {}
    for indices, columns in rows.batches(max(len(rows), 1)):
        for i in indices:
            row = {name: values[i] for name, values in columns.items()}
            label, name = row.get("label"), description(row)
            if not isinstance(label, str | int) or not name:
                raise DataError(
                    f"{rows.where(i)}: found the label {shown(label)} and its description {shown(name)}, expected "
                    f"'label' and '{DESCRIPTIONS[0]}' or '{DESCRIPTIONS[1]}'"
                )
            found[as_label(label)] = name
    return found


def description(row: Mapping[str, Any]) -> str | None:
    """Return the label's name that a row of CLUE states; None where it states none."""
    found = (row.get(key) for key in DESCRIPTIONS)
    return next((text.strip() for text in found if isinstance(text, str) and text.strip()), None)
