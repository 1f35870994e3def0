from __future__ import annotations

import glob
import math
import random
from pathlib import Path

import pytest
import yaml

from hft_core.errors import RecipeError
from hft_core.recipe.recipe_file import dump, from_dict, load, parse, validate
from hft_core.recipe.schema import Recipe

GOOD = Path(__file__).with_name("good.yaml").read_text()


def message(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(parse(text, "recipe.yaml"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


# --- bad recipes

BAD: list[tuple[str, list[str]]] = [
    (changed("learning_rate", "learning_rat"), ["line 15, stages.1.learning_rat: unknown key", "'learning_rate'?"]),
    (changed("backbone:", "bakcbone:"), ["line 1, bakcbone: unknown key", "'backbone'?", "'backbone' is missing"]),
    (GOOD + '"a\\nb": 1\n', ["line 17, a b: unknown key"]),
    (GOOD + "colour: red\n", ["line 17, colour: unknown key", "Known: backbone"]),
    (
        "tasks: {}\n",
        ["recipe.yaml", "line 1, tasks: expected at least one entry, not an empty mapping", "'backbone' is"],
    ),
    (changed("1e-4", "fast"), ["line 15, stages.1.learning_rate: expected a number, not 'fast'"]),
    (changed("1e-4", "'1e-4'"), ["stages.1.learning_rate: expected a number, not '1e-4'"]),
    (changed("1e-4", "-1"), ["stages.1.learning_rate: expected a number > 0, not -1"]),
    (changed("1e-4", ".inf"), ["stages.1.learning_rate: expected a finite number, not inf"]),
    (changed("1e-4", ".nan"), ["stages.1.learning_rate: expected"]),
    (changed("1e-4", "[1]"), ["stages.1.learning_rate: expected a number, not a list"]),
    (changed("max_steps: 10", "max_steps: 1.5"), ["line 16, stages.1.max_steps: expected a whole number, not 1.5"]),
    (changed("max_steps: 10", "max_steps: 0"), ["stages.1.max_steps: expected a number > 0, not 0"]),
    (changed("max_steps: 10", "max_steps: true"), ["stages.1.max_steps: expected a whole number, not true"]),
    (changed("max_steps: 10", "warmup_ratio: 1"), ["stages.1.warmup_ratio: expected a number < 1, not 1"]),
    (changed("max_steps: 10", "lr_scheduler_type: cosin"), ["lr_scheduler_type: expected one of 'linear', 'cosine'"]),
    (changed("max_steps: 10", "head_warmup_steps: some"), ["expected a whole number or 'auto', not 'some'"]),
    (changed("max_steps: 10", "load_best_model_at_end: no"), ["expected true or false, not 'no'"]),
    (changed("max_steps: 10", "max_steps: 10\n    epochs: 2"), ["line 12, stages.1", "not both"]),
    (changed("epochs: 1", "epochs: 1\n    num_train_epochs: 1"), ["line 11, stages.0.epochs", "the same key"]),
    (changed("max_steps: 10", "eval_strategy: steps"), ["line 12, stages.1", "needs 'eval_steps'"]),
    (changed("max_steps: 10", "metric_for_best_model: topc.f1"), ["line 16", "no task is called 'topc'", "'topic'?"]),
    (changed("max_steps: 10", "metric_for_best_model: f1"), ["expected TASK.METRIC, not 'f1'"]),
    (changed("tasks: language", "tasks: [langage]"), ["line 10, stages.0.tasks.0", "'langage'", "'language'?"]),
    (changed("tasks: language", "tasks: [language, language]"), ["line 9, stages.0", "names a task twice"]),
    (changed("tasks: language", "tasks: {language: 1}"), ["line 10, stages.0.tasks: expected a list, not a mapping"]),
    (
        changed("sampling: uniform", "sampling: even"),
        ["line 14, stages.1.sampling: expected 'proportional', 'uniform'"],
    ),
    (changed("sampling: uniform", "sampling: {temperature: 0.5}"), ["sampling.temperature: expected a number >= 1"]),
    (changed("sampling: uniform", "sampling: {weights: {topik: 1}}"), ["sampling.weights.topik", "'topic'?"]),
    (changed("sampling: uniform", "sampling: {weights: {topic: 0}}"), ["weights.topic: expected a number > 0, not 0"]),
    (changed("name: finetune", "name: pretrain"), ["line 12, stages.1.name: two stages are called 'pretrain'"]),
    (changed("name: finetune", "name: a/b"), ["line 12, stages.1.name: expected a name of letters", "not 'a/b'"]),
    (changed("  topic: {", "  to pic: {"), ["line 3, tasks.to pic: expected a name of letters", "not 'to pic'"]),
    (changed("    strategy", "    tasks: language\n    strategy"), ["line 3, tasks.topic: no stage trains the task"]),
    (
        changed("head: classification, ", ""),
        ["tasks.topic.loss: unknown key", "line 3, tasks.topic: 'head' is missing"],
    ),
    (changed("head: {type: mlm}", "head: {r: 1}"), ["line 5, tasks.language.head: 'type' is missing"]),
    (changed("head: {type: mlm}", "head: 3"), ["line 5, tasks.language.head: expected a mapping (key: value), not 3"]),
    (changed("head: {type: mlm}", "head: {type: mlm, p: 1}\n    p: 2"), ["line 6, tasks.language.p", "given twice"]),
    (changed("data: news.csv", "data: {files: a.csv, dev: b.csv}"), ["line 3, tasks.topic.data: 'dev' and 'test' go"]),
    (changed("data: news.csv", "data: {dev: b.csv}"), ["tasks.topic.data: give either 'files'"]),
    (changed("data: news.csv", "data: {files: a.csv, format: xls}"), ["data.format: expected one of 'csv', 'tsv'"]),
    (changed("data: news.csv", "data: {files: a, split: {dev: 0.5, test: 0.5}}"), ["data.split", "below 1"]),
    (changed("data: news.csv", "data: {files: a, splits: 1}"), ["data.splits: unknown key. Did you mean 'split'?"]),
    (changed("data: news.csv", "data: ''"), ["tasks.topic.data: a path is empty"]),
    (changed("data: news.csv", "data: [1]"), ["tasks.topic.data.0: expected text, not 1"]),
    (changed("max_length: 64", "max_length: 2"), ["line 7, tasks.language.max_length: expected a number >= 4, not 2"]),
    (changed("type: tiny", "type: [tiny]"), ["line 1, backbone.type: expected text, not a list"]),
    (GOOD + "seed: -1\n", ["line 17, seed: expected a number >= 0, not -1"]),
    (GOOD + f"seed: {10**60}\n", ["line 17, seed: expected", "so long a number"]),
    (
        GOOD + "output: {logging_step: 1}\n",
        ["line 17, output.logging_step: unknown key. Did you mean 'logging_steps'?"],
    ),
    (GOOD + "precision: fp16\n", ["line 17, precision: expected one of 'auto', 'fp32' or 'bf16', not 'fp16'"]),
    ("backbone: a\ntasks: 3\nstages: {}\n", ["line 2, tasks: expected a mapping (key: value), not 3"]),
    ("backbone: a\ntasks: {a: {head: mlm}}\nstages: []\n", ["line 3, stages: expected at least one entry"]),
]


@pytest.mark.parametrize(("text", "parts"), BAD)
def test_a_bad_recipe_is_one_line_with_the_place_and_what_was_expected(text: str, parts: list[str]) -> None:
    line = message(text)
    assert line.startswith("recipe.yaml")
    for part in parts:
        assert part in line
    for jargon in (
        "pydantic",
        "http",
        "function-",
        "Input should",
        "Value error",
        "validation",
        "Extra inputs",
        "[key]",
    ):
        assert jargon not in line


def test_further_errors_follow_compactly() -> None:
    line = message(changed("1e-4", "fast") + "seed: x\nprecision: y\n")
    assert line.startswith("recipe.yaml, line 15, stages.1.learning_rate: expected a number, not 'fast' (and 2 more: ")
    assert "recipe.yaml, line 17, seed: expected a whole number, not 'x'; " in line
    many = message(GOOD + "".join(f"key{i}: 1\n" for i in range(9)))
    assert "(and 8 more: " in many and many.endswith("; …)") and "key8" not in many


# --- paths


def test_paths_start_from_the_recipe_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some" / "hub-id").mkdir(parents=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(GOOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path.parent)
    recipe = load(Path(tmp_path.name) / "recipe.yaml")
    topic, language = recipe.tasks["topic"].data, recipe.tasks["language"].data
    assert topic is not None and topic.files == (str(tmp_path / "news.csv"),)
    assert language is not None and language.train == (str(tmp_path / "a/*.txt"),)
    assert language.dev == ("/data/dev.txt",)
    assert recipe.backbone.options["model"] == str(tmp_path / "some/hub-id")


def test_a_model_that_is_not_there_is_a_hub_id_and_an_address_is_no_path(tmp_path: Path) -> None:
    recipe = validate(parse(changed("news.csv", "https://host/news.csv"), "x", tmp_path))
    assert recipe.backbone.options["model"] == "some/hub-id"
    assert recipe.tasks["topic"].data is not None and recipe.tasks["topic"].data.files == ("https://host/news.csv",)


def test_wildcard_signs_in_a_folders_name_mean_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.txt").touch()
    recipe = validate(parse(GOOD, "x", folder))
    topic, language = recipe.tasks["topic"].data, recipe.tasks["language"].data
    assert language is not None and topic is not None
    assert glob.glob(language.train[0]) == [str(folder / "a" / "x.txt")]
    assert topic.files == (str(folder / "news.csv"),)


# --- Python and back


def test_plain_data_has_the_same_errors() -> None:
    data = {"backbone": "tiny", "tasks": {"a": {"head": "mlm"}}, "stages": [{"learning_rat": 1}]}
    with pytest.raises(RecipeError) as caught:
        from_dict(data)
    assert str(caught.value) == "recipe, stages.0.learning_rat: unknown key. Did you mean 'learning_rate'?"
    with pytest.raises(RecipeError, match=r"^mine, stages\.0\.learning_rat: "):
        from_dict(data, "mine")


def test_a_dumped_recipe_reads_back_as_itself() -> None:
    recipe = load(parse(GOOD, "x"))
    text = dump(recipe)
    assert load(parse(text, "x")) == recipe
    assert "temperature: .inf" in text
    assert list(parse(text, "x").data) == list(Recipe.model_fields)
    assert yaml.safe_load(text)["stages"][1]["sampling"]["temperature"] == math.inf


def test_any_text_and_number_survives_a_dump() -> None:
    words = [
        "no",
        "1e-4",
        "1e5",
        "0o7",
        "010",
        "12:30",
        "2024-01-01",
        "~",
        "",
        "null",
        "true",
        ".inf",
        "<<",
        "=",
        "a: b",
    ]
    words += [
        "# x",
        "- y",
        "&a",
        "*a",
        "!t",
        "%d",
        "@",
        "`",
        "'",
        '"',
        "\\",
        " lead",
        "trail ",
        "two\nlines",
        "tab\t",
        "日本",
        "😀",
    ]
    words += ["\x85", "\u2028", "\x07", "x" * 300, "1_000", "0x1F", "- ", "?", ": ", "{", "[", "|", ">", "\r\n"]
    draw = random.Random(0)
    words += ["".join(draw.choices("aA1.:-#&*!|>'\"%@`{}[],? \n\t~=<e+_0", k=6)) for _ in range(300)]
    numbers = [0, -1, 1e-4, 1e-8, 1e22, 1e300, 5e-324, math.inf, -math.inf, 0.1, 3.0, True, False, None]
    options = {"words": words, "numbers": numbers, "nested": {word: word for word in words if word}}
    recipe = from_dict(
        {"backbone": "tiny", "tasks": {"a": {"head": "mlm"}}, "stages": [{"strategy": {"type": "s", **options}}]}
    )
    again = load(parse(dump(recipe), "x"))
    assert again == recipe
    strategy = again.stages[0].strategy
    assert strategy is not None
    assert [type(n) for n in strategy.options["numbers"]] == [type(n) for n in numbers]
