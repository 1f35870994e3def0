"""The recipes, trained on made-up rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import hft_core
from hft_chinese import recipes
from hft_core import Catalogue, predict
from hft_core.errors import DataError
from hft_core.recipe.recipe_file import Source, load, override

Row = dict[str, Any]

SHORT = [
    "stages.0.epochs=20",
    "stages.0.learning_rate=5e-3",
    "stages.0.per_device_train_batch_size=16",
    "precision=fp32",
]


def built(name: str, place: Path, bert: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """The recipe as the command line gets it: by its name from what is installed."""
    catalogue = Catalogue.discover()
    entry = catalogue.get("recipe", name)
    given = catalogue.load_options(entry).model_validate({"data": str(place), "model": str(bert), **options})
    made: dict[str, Any] = catalogue.load_factory(entry)(given, folder=folder)
    return made


@pytest.mark.parametrize(
    ("task", "asked", "answers"),
    [
        ("tnews", ["门将"], {"体育", "财经", "科技"}),
        ("afqmc", ["怎么修改密码", "密码可以改吗"], {"相同", "不同"}),
        ("cmnli", ["两个孩子在河边钓鱼", "有人在钓鱼"], {"蕴含", "中立", "矛盾"}),
        ("cluener", ["李文"], {"B-name", "I-name", "O", "B-address", "I-address", "B-company", "I-company"}),
    ],
)
def test_a_recipe_learns_its_task_and_answers(
    task: str,
    asked: list[str],
    answers: set[str],
    bert: Path,
    folder: Callable[..., Path],
    made: Callable[..., list[Row]],
    tmp_path: Path,
) -> None:
    place = folder(train=made(task, 48), dev=made(task, 24, 1), test=made(task, 24, 2))
    recipe = built(f"clue-{task}", place, bert, tmp_path / "rows")
    result = hft_core.run(load(override(Source.of(recipe), SHORT)), output=tmp_path / "run")
    metric = result.main_metrics[task]
    assert result.final["dev"][task][metric] > 0.9
    assert result.final["test"][task][metric] > 0.9
    opened = predict.open_run(tmp_path / "run", Catalogue.discover())
    (answer,) = predict.predict(opened, task, predict.rows_from_texts(opened, task, asked))
    given = answer["value"] if task == "cluener" else [answer["label"]]
    assert set(given) <= answers


def test_the_rows_are_written_under_the_folder_and_the_model_is_found_from_here(
    bert: Path,
    folder: Callable[..., Path],
    made: Callable[..., list[Row]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = folder(train=made("tnews", 6), dev=made("tnews", 3))
    monkeypatch.chdir(bert.parent)
    recipe = built("clue-tnews", place, Path(bert.name), tmp_path / "rows")
    assert recipe["backbone"]["model"] == str(bert)
    data = recipe["tasks"]["tnews"]["data"]
    assert data == {split: str(tmp_path / "rows" / f"tnews-{split}.jsonl") for split in ("train", "dev")}
    rows = [json.loads(line) for line in Path(data["train"]).read_text(encoding="utf-8").splitlines()]
    assert [row["label_zh"] for row in rows] == ["体育", "财经", "科技"] * 2


def test_overlaps_are_refused_unless_the_longest_is_asked_for(
    bert: Path, folder: Callable[..., Path], tmp_path: Path
) -> None:
    row = {"text": "远山公司", "label": {"company": {"远山公司": [[0, 3]]}, "name": {"远山": [[0, 1]]}}}
    place = folder(train=[row], dev=[row])
    with pytest.raises(DataError, match=r"train\.json, line 1: .* overlap"):
        built("clue-cluener", place, bert, tmp_path / "rows")
    recipe = built("clue-cluener", place, bert, tmp_path / "rows", overlaps="longest")
    (line,) = Path(recipe["tasks"]["cluener"]["data"]["train"]).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["tags"] == ["B-company", "I-company", "I-company", "I-company"]


def test_data_and_model_are_asked_for() -> None:
    with pytest.raises(ValidationError, match=r"data\n.*\nmodel|2 validation errors"):
        recipes.Options.model_validate({})
