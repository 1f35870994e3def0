from __future__ import annotations

from pathlib import Path

import pytest

from hft_core.errors import UsageError
from hft_core.recipe.flags import plugin_from_flag, recipe_from_flags, task_from_flag
from hft_core.recipe.recipe_file import Source, from_dict, load


def test_flags_make_one_stage_called_train_with_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder").mkdir()
    data = recipe_from_flags(
        "encoder",
        ["topic=classification:news.csv", "language=mlm:a/*.txt,b.txt"],
        strategy="lora,r=16",
        combiner="uncertainty",
        epochs=2,
        max_steps=None,
    )
    recipe = from_dict(data, "command line")
    assert recipe.backbone.options == {"model": str(tmp_path / "encoder")}
    assert recipe.tasks["topic"].head.type == "classification"
    assert recipe.tasks["language"].data is not None
    assert recipe.tasks["language"].data.files == (str(tmp_path / "a/*.txt"), str(tmp_path / "b.txt"))
    (stage,) = recipe.stages
    assert (stage.name, stage.tasks, stage.num_train_epochs) == ("train", ("topic", "language"), 2)
    assert stage.strategy is not None and stage.strategy.options == {"r": 16}
    assert stage.combiner is not None and stage.combiner.type == "uncertainty"


def test_what_flags_leave_out_is_left_to_the_defaults() -> None:
    (stage,) = from_dict(recipe_from_flags("tiny", ["a=mlm:a.txt"])).stages
    assert (stage.strategy, stage.combiner, stage.num_train_epochs) == (None, None, None)


def test_overrides_apply_to_flags() -> None:
    source = Source.of(recipe_from_flags("tiny", ["a=mlm:a.txt"], strategy="lora"), "command line")
    recipe = load(source, ["stages.train.strategy.r=4", "tasks.a.whole_word=true", "seed=7"])
    assert recipe.stages[0].strategy is not None and recipe.stages[0].strategy.options == {"r": 4}
    assert (recipe.tasks["a"].head.options, recipe.seed) == ({"whole_word": True}, 7)


@pytest.mark.parametrize(
    ("flag", "files"),
    [
        ("t=mlm:C:\\news\\a.csv", ["C:\\news\\a.csv"]),
        ("t=mlm:https://host/a.csv?b=c", ["https://host/a.csv?b=c"]),
        ("t=mlm:a=b.csv", ["a=b.csv"]),
        ("t=mlm: a.csv , b.csv", ["a.csv", "b.csv"]),
        ("t=mlm:a[1,2].csv,b.csv", ["a[1,2].csv", "b.csv"]),
    ],
)
def test_a_path_keeps_its_own_colons_and_equals_signs(flag: str, files: list[str]) -> None:
    assert task_from_flag(flag) == ("t", {"head": "mlm", "data": {"files": files}})


def test_option_values_are_read_as_yaml() -> None:
    chosen = plugin_from_flag("lora,r=16,targets=[q, v],bias=none,rate=1e-4,on=true,note=", "--strategy")
    assert chosen["options"] == {
        "r": 16,
        "targets": ["q", "v"],
        "bias": "none",
        "rate": 1e-4,
        "on": True,
        "note": None,
    }


@pytest.mark.parametrize(
    "flag",
    ["", "topic", "topic=", "topic=mlm", "topic=mlm:", "=mlm:a.txt", "topic=:a.txt", "to pic=mlm:a.txt", "t=mlm:a,,b"],
)
def test_a_malformed_task_flag_shows_the_form(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_from_flags("tiny", [flag])
    assert str(caught.value).startswith(f"--task {flag}: ")
    assert "NAME=HEAD:FILE" in str(caught.value)


@pytest.mark.parametrize("flag", ["", ",r=16", "lora,", "lora,r", "lora,=3", "r=16", "lora,r=1,r=2", "lora,r=[1"])
def test_a_malformed_plugin_flag_names_the_flag(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_from_flags("tiny", ["a=mlm:a.txt"], combiner=flag)
    assert str(caught.value).startswith(f"--combiner {flag}: ")
    assert "\n" not in str(caught.value)


def test_a_task_given_twice_a_missing_task_and_an_empty_backbone_are_refused() -> None:
    with pytest.raises(UsageError, match="'a' is given twice"):
        recipe_from_flags("tiny", ["a=mlm:a.txt", "a=clm:b.txt"])
    with pytest.raises(UsageError, match="at least one"):
        recipe_from_flags("tiny", [])
    with pytest.raises(UsageError, match="--backbone"):
        recipe_from_flags(" ", ["a=mlm:a.txt"])
