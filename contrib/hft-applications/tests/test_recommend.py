"""`hft recommend` on a run with a tiny model: what it answers, how it scores, and how wrong input ends it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hft_applications.recommend import scores
from hft_applications.recommending import User, top
from hft_core.cli import main

NOUNS, GENRES = ("horse", "dog", "river", "bank"), ("old", "early")
ITEMS = [{"text": f"{noun} {genre}", "likes": i} for genre in GENRES for i, noun in enumerate(NOUNS)]
Rows = list[dict[str, Any]]


def written(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that puts films of one genre near each other, and ranks the early ones first."""
    import hft_core
    from hft_core.testing import trunks

    texts = [str(row["text"]) for row in ITEMS]
    genre = {text: text.split()[-1] for text in texts}
    pairs = [{"text": a, "other": b} for a in texts for b in texts if a != b and genre[a] == genre[b]]
    lists = [
        {"list": a, "query": a, "film": b, "label": int(genre[b] == "early")} for a in texts for b in texts if a != b
    ]
    recipe: dict[str, Any] = {
        "backbone": {"model": str(trunks.folder("BERT"))},
        "tasks": {
            "match": {"head": "contrastive", "text": ["text", "other"]},
            "rank": {"head": "ranking", "group_by": "list", "document": "film", "loss": "listwise"},
        },
        "stages": [{"learning_rate": 5e-3, "train_batch_size": 16, "num_train_epochs": 20}],
        "precision": "fp32",
    }
    folder = tmp_path_factory.mktemp("runs") / "films"
    data = {"match": {"train": pairs, "dev": pairs}, "rank": {"train": lists, "dev": lists}}
    result = hft_core.run(recipe, data=data, output=folder)
    assert result.final["dev"]["rank"]["ndcg@10"] == pytest.approx(1), result.final
    return folder


@pytest.fixture(scope="module")
def index(run: Path) -> Path:
    items = written(run.parent / "items.jsonl", [{**row, "film": row["text"]} for row in ITEMS])
    folder = run.parent / "items.index"
    options = ["--task", "match", "--input", str(items), "--text", "text", "--out", str(folder)]
    assert main(["index", str(run), *options]) == 0
    return folder


USERS: Rows = [
    {"user": "ann", "liked": ["horse old", "river old"], "disliked": ["bank old"], "next": ["dog old"]},
    {"user": "bob", "liked": ["bank early"], "disliked": [], "next": ["river early", "dog early"]},
    {"user": "cem", "liked": ["a horse early"]},
]


def test_what_is_near_to_the_liked_items_comes_first_and_known_ones_are_left_out(
    run: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users = written(tmp_path / "users.jsonl", USERS)
    command = ["recommend", str(run), "--index", str(index), "--input", str(users), "--k", "2"]
    capsys.readouterr()
    assert main([*command, "--popularity", "likes", "--weight", "0"]) == 0
    shown = capsys.readouterr()
    ann, bob, cem = map(json.loads, shown.out.splitlines())
    assert ann["user"] == "ann"
    assert {"liked", "disliked", "next"}.isdisjoint(ann)
    assert ann["recommended"][0]["row"]["text"] == "dog old"
    assert ann["recommended"][0]["because"] in USERS[0]["liked"]
    assert all(one["row"]["text"].endswith("early") for one in bob["recommended"] + cem["recommended"])
    head, own, words, likes = shown.err.splitlines()[-4:]
    assert head.split() == ["2", "users", "nDCG@2", "recall@2", "coverage"]
    assert own.startswith("this run")
    assert float(own.split()[-2]) >= 0.75
    assert words.startswith("TF-IDF similarity")
    assert likes.split() == ["popularity", "(likes)", "0.0000", "0.0000", "0.500"]


def test_a_ranking_task_orders_the_candidates(
    run: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    users, out = written(tmp_path / "users.jsonl", USERS[:1]), tmp_path / "out.jsonl"
    command = ["recommend", str(run), "--index", str(index), "--input", str(users), "--output", str(out)]
    assert main([*command, "--rerank", "rank", "--k", "4"]) == 0
    answer = json.loads(out.read_text())
    assert [one["row"]["text"].split()[-1] for one in answer["recommended"]] == ["early"] * 4
    scores = [one["score"] for one in answer["recommended"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"likes": ["a"]}, [], "users.jsonl, line 1: has no 'liked' (--liked). Did you mean 'likes'?"),
        ({"liked": []}, [], "column 'liked': expected texts of items that the user liked; found none"),
        ({"liked": "a"}, [], "column 'liked': expected a list of texts; found 'a'"),
        ({"liked": ["a"]}, ["--rerank", "ranks"], "--rerank: the run has no task 'ranks'. Did you mean 'rank'?"),
        (
            {"liked": ["a"]},
            ["--rerank", "match"],
            "--rerank match: expected a ranking task that reads a history and",
        ),
        (
            {"liked": ["a"]},
            ["--popularity", "like"],
            "the rows of the index have no column 'like'. Did you mean 'likes'?",
        ),
        ({"liked": ["a"]}, ["--popularity", "text"], "row 1 of the index has 'horse old', expected a number of 0 or"),
        ({"liked": ["a"], "disliked": []}, ["--seen", "dislikd"], "no column 'dislikd'. Did you mean 'disliked'?"),
        ({"liked": ["a"]}, ["--next", "nxt"], "--next: "),
        ({"liked": ["a"]}, ["--output", "no/folder/x"], "--output no/folder/x: cannot be written to: No such file"),
    ],
)
def test_a_wrong_request_ends_with_one_line(
    run: Path,
    index: Path,
    row: dict[str, Any],
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    users = written(tmp_path / "users.jsonl", [row])
    capsys.readouterr()
    assert main(["recommend", str(run), "--index", str(index), "--input", str(users), *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_items_of_one_text_are_one_item() -> None:
    texts, user = ["a", "a", "b", "c", "b", "d"], User({}, ["a"], after=frozenset({"b"}))
    assert top(np.array([6.0, 5, 4, 2, 3, 1]), user, texts, 3) == [2, 3, 5]
    items = SimpleNamespace(texts=texts, rows=texts)
    assert scores([[2]], [user], items, 1).recall == 1  # type: ignore[arg-type]


def test_the_readme_names_options_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### hft recommend\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"--[a-z-]+", section))
    assert len(named) >= 10
    assert main(["recommend", "--help"]) == 0
    assert named <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
