"""Read CLUE tasks with one class for a text or for a pair: TNEWS, IFLYTEK, AFQMC, CMNLI, OCNLI, CSL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hft_chinese.labels import INFERENCE, KEYWORDS, SAME_MEANING, TNEWS, TNEWS_CHINESE, description, read_labels
from hft_core.data import as_label, nearest, shown

LABELS_FILE = "labels.json"


@dataclass(frozen=True)
class Classes:
    """The format of the rows of one such task."""

    texts: tuple[str, ...]
    """Fields with a text, or with a list of texts, which become one text divided by blanks."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the labels are called; none: as the rows describe them."""
    described: bool = False
    """Where the folder has a `labels.json`, that says what they are called."""
    chinese: Mapping[str, str] = field(default_factory=dict)
    """What they are called in Chinese, where CLUE's own description is another one."""
    left_out: tuple[str, ...] = ()
    """Labels of rows that nobody learns from."""

    def known(self, folder: Path) -> Mapping[str, str]:
        """Return the names of the labels. Raises `DataError` for a faulty `labels.json`."""
        file = folder / LABELS_FILE
        return read_labels(file) if self.described and file.is_file() else self.labels

    def unlabelled(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with its texts in order. Raises `ValueError` for one that is missing or blank."""
        return {**row, **{name: _text(name, row.get(name)) for name in self.texts}}

    def labelled(self, row: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the row with its `label`, its name (`label_desc`) and its name in Chinese (`label_zh`);
        None for one that is left out. Raises `ValueError` for a label that is missing or unknown."""
        found = row.get("label")
        if not isinstance(found, str | int) or not as_label(found):
            raise ValueError(f"'label' is {shown(found)}, expected a label")
        label = as_label(found)
        if label in self.left_out:
            return None
        if known and label not in known:
            raise ValueError(
                f"'label' is '{label}', expected one of the {len(known)} labels of the task.{nearest(label, known)}"
            )
        name = known.get(label) or description(row)
        if name is None:
            raise ValueError(f"nothing says what the label '{label}' is called: no 'label_des', and no {LABELS_FILE}")
        return {**self.unlabelled(row), "label": label, "label_desc": name, "label_zh": self.chinese.get(label, name)}


def _text(name: str, value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        value = " ".join(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' is {shown(value)}, expected a text that is not blank")
    return value


_PAIR = ("sentence1", "sentence2")
_NO_CONSENSUS = "-"

TASKS = {
    "tnews": Classes(("sentence",), TNEWS, described=True, chinese=TNEWS_CHINESE),
    "iflytek": Classes(("sentence",), described=True),
    "afqmc": Classes(_PAIR, SAME_MEANING),
    "cmnli": Classes(_PAIR, INFERENCE, left_out=(_NO_CONSENSUS,)),
    "ocnli": Classes(_PAIR, INFERENCE, left_out=(_NO_CONSENSUS,)),
    "csl": Classes(("keyword", "abst"), KEYWORDS),
}
