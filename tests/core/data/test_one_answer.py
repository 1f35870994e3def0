from __future__ import annotations

from typing import Any

import pytest

from hft_core.data import loading, one_answer
from hft_core.data.rows import Rows
from hft_core.head import Column

TEXT = Column("text", "text")
LABEL = Column("label", "label", target=True)
NUMBER = Column("label", "number", target=True)
ANSWER = Column("label", "text", target=True)
TAGS = Column("label", "label", target=True, many=True)


def rows(*labels: Any) -> Rows:
    return loading.from_python([{"text": f"text {i}", "label": label} for i, label in enumerate(labels)], task="t")


@pytest.mark.parametrize(
    ("column", "dev", "said"),
    [
        (LABEL, ["x"] * 9, "task 't': all 9 dev rows have 'x' in column 'label'"),
        (LABEL, [1, "1", " 1"] * 3, "task 't': all 9 dev rows have '1' in column 'label'"),
        (LABEL, ["x"] * 8 + ["y"], ""),
        (LABEL, ["x"] * 3, ""),
        (NUMBER, ["2.0", 2, "2e0"] * 3, "task 't': all 9 dev rows have '2.0' in column 'label'"),
        (TAGS, [["x"]] * 9, "all 9 dev rows have 'x' in column 'label'"),
        (TAGS, [["x", "y"], ["y", "x"], ["x", "y", "y"]] * 3, "have 'x' and 'y' in column"),
        (TAGS, [[]] * 9, "all 9 dev rows have nothing in column 'label'"),
        (TAGS, [["x"]] * 8 + [["x", "y"]], ""),
        (ANSWER, ["the cat"] * 8 + [" the cat "], "all 9 dev rows have 'the cat' in column 'label'"),
        (ANSWER, ["the cat"] * 8 + ["The cat"], ""),
    ],
)
def test_a_split_with_one_answer_is_told_of(column: Column, dev: list[Any], said: str) -> None:
    found = one_answer.warnings({"t": (TEXT, column)}, {"t": {"train": rows("x", "y"), "dev": rows(*dev)}})
    assert len(found) == bool(said)
    assert said in "".join(found)
