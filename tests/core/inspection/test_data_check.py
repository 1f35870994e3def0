"""What `hft check-data` finds among rows in which it was planted, and what a cleaned copy leaves out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hft_core.cli import main
from hft_core.data import loading
from hft_core.errors import UsageError
from hft_core.inspection import data_check, label_noise, near_duplicates, personal_data

WORDS = {
    "sport": ["striker", "goal", "runner", "match", "referee", "champion", "season", "league"],
    "money": ["bank", "market", "broker", "trader", "investor", "auditor", "price", "shares"],
}


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts that are about what their label says, each another one."""
    random = np.random.default_rng(seed)
    labels = [str(random.choice(list(WORDS))) for _ in range(count)]
    texts = []
    for i, label in enumerate(labels):
        texts.append(f"{' '.join(random.choice(WORDS[label], 6))} case {seed}-{i} of {random.integers(10**9)}")
    return texts, labels


def table(path: Path, texts: list[str], labels: list[str]) -> str:
    lines = (json.dumps({"text": t, "label": y, "kept": i}) for i, (t, y) in enumerate(zip(texts, labels, strict=True)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_equal_and_near_texts_are_grouped_with_the_first_of_them() -> None:
    first = "the broker of the old bank sold all of his shares on a cold monday morning in march"
    texts = [first, "something else altogether", first.upper() + "  ", first.replace("march", "april"), "x", "\uff38"]
    found = near_duplicates.groups(texts, near=True)
    assert found.same == [0, 1, 0, 3, 4, 4]
    assert found.alike == [0, 1, 0, 0, 4, 4]
    assert near_duplicates.groups(texts, near=False).alike == found.same


def test_a_text_of_several_groupings_is_sketched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasketch import MinHash

    sketched: list[int] = []
    update = MinHash.update_batch
    monkeypatch.setattr(MinHash, "update_batch", lambda *given: (sketched.append(1), update(*given))[1])
    texts, _ = sentences(40)
    tables = {"one": {"train": texts[:30]}, "two": {"train": texts[20:], "dev": texts[:5]}}
    tasks = [
        data_check.TaskRows(
            task,
            {
                split: loading.from_python([{"text": text} for text in part], task=task)
                for split, part in splits.items()
            },
            ("text",),
            "",
        )
        for task, splits in tables.items()
    ]
    data_check.check(tasks)
    assert len(sketched) == len(set(texts))


def test_a_missing_library_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UsageError, match=r"pip install 'hft-core\[check-data\]', or give --exact"):
        near_duplicates.groups(["a", "b"], near=True)
    assert near_duplicates.groups(["a", "b"], near=False).alike == [0, 1]


def test_wrong_labels_are_suspected_and_right_ones_are_not() -> None:
    texts, labels = sentences(300)
    wrong = set(range(0, 300, 30))
    given = [("money" if y == "sport" else "sport") if i in wrong else y for i, y in enumerate(labels)]
    found = label_noise.suspects(texts, given)
    assert {suspect.index for suspect in found} == wrong
    assert all(suspect.likelier == labels[suspect.index] for suspect in found)
    assert label_noise.suspects(texts[:4], labels[:4]) == []


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to anna.smith@example.org or call +49 30 1234567", ["e-mail address", "phone number"]),
        ("手机 13812345678, 身份证 11010519491231002X", ["Chinese identity number", "phone number"]),
        ("the number 110105194912310021 has a wrong check digit", []),
        ("my card is 4111 1111 1111 1111", ["payment card number"]),
        ("IBAN DE89 3704 0044 0532 0130 00", ["bank account (IBAN)"]),
        ("SSN 078-05-1120", ["US social security number"]),
        ("call (555) 234-5678 today", ["phone number"]),
        ("in 2024 the 3,000,000 people of 1,234,567,890 paid 12.50 at 10:30 on 2024-05-06", []),
        ("pi is 3.14159265358979 and e is 2.718281828459", []),
    ],
)
def test_personal_data_are_found_by_their_form_and_check_digits(text: str, kinds: list[str]) -> None:
    assert personal_data.found_in(text) == kinds


def test_what_is_planted_in_files_is_counted_and_left_out_of_the_copy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = sentences(120)
    other, other_labels = sentences(40, seed=1)
    train = table(
        tmp_path / "topics-train.jsonl",
        [*texts, texts[0], texts[1].replace("case", "cases"), other[0], "mail me at a@example.org"],
        [*labels, "sport" if labels[0] == "money" else "money", labels[1], other_labels[0], "rare"],
    )
    test = table(tmp_path / "topics-test.jsonl", other, other_labels)
    out = tmp_path / "cleaned"
    assert main(["check-data", train, test, "--json", "--cleaned", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    found: dict[str, Any] = report["tasks"]["topics"]
    assert found["rows"] == {"train": 124, "test": 40}
    assert (found["repeated"], found["near"]) == ({"train": 1}, {"train": 1})
    assert (found["leaked"], found["contradictions"]) == ({"train/test": 1}, 1)
    assert (found["personal"], found["rare"]) == ({"e-mail address": 1}, 1)
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert sorted((row["index"], row["why"].partition(" as ")[0]) for row in dropped) == [
        (120, "the same"), (121, "nearly the same"), (122, "the same"),
    ]  # fmt: skip
    assert all(row["place"] == f"{train}, line {row['index'] + 1}" for row in dropped)
    kept = [json.loads(line)["kept"] for line in (out / "topics-train.jsonl").read_text().splitlines()]
    assert kept == [*range(120), 123]
    assert len((out / "topics-test.jsonl").read_text().splitlines()) == 40
    assert main(["check-data", train, "--cleaned", str(out)]) == 2
    assert "it is there and not empty" in capsys.readouterr().err
    assert main(["check-data", train, test]) == 0
    assert "texts of one split in another  1 (train/test)" in capsys.readouterr().out


def test_texts_that_one_task_learns_and_another_is_tested_on_are_counted(tmp_path: Path) -> None:
    texts, labels = sentences(60)
    files = [
        table(tmp_path / "a-train.jsonl", texts[:40], labels[:40]),
        table(tmp_path / "a-test.jsonl", texts[40:], labels[40:]),
        table(tmp_path / "b-train.jsonl", texts[35:50], labels[35:50]),
        table(tmp_path / "b-test.jsonl", texts[:3], labels[:3]),
    ]
    report = data_check.check(data_check.of_files(files), near=False)
    assert report.shared == {"train of a in test of b": 3, "train of b in test of a": 10}
    assert report.dropped == ()


def test_a_recipe_is_checked_in_the_splits_of_its_run(
    tmp_path: Path, models: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, labels = sentences(50)
    table(tmp_path / "rows.jsonl", [*texts, *texts], [*labels, *labels])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"backbone: {models['bert']}\ntasks: {{a: {{head: classification, data: rows.jsonl}}}}\nstages: {{}}\n"
    )
    assert main(["check-data", str(recipe), "--exact", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["a"]
    assert set(found["rows"]) == {"train", "dev", "test"} and sum(found["rows"].values()) == 100
    assert sum(found["repeated"].values()) + sum(found["leaked"].values()) == 50
    assert main(["check-data", str(recipe), str(tmp_path / "rows.jsonl")]) == 2
    assert "give one recipe, or data files, not both" in capsys.readouterr().err
