"""`hft serve` in one process: its answers are those of `predict`, and what it refuses."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue, ModelError, UsageError
from hft_core.predict import prediction, saved_run

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")
pytest.importorskip("uvicorn", reason="the extra serve")

from fastapi.testclient import TestClient

from hft_core.cli import main
from hft_core.search import build_index, open_index
from hft_core.serve import app as serving
from hft_core.serve.api_keys import ApiKeys
from hft_core.serve.limits import Limits
from hft_core.serve.served_run import open_served
from hft_core.serve.served_runs import ServedRuns

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"
CATALOGUE = Catalogue.discover()
TASKS: dict[str, Any] = {
    "topic": {"head": "classification"},
    "score": {"head": "regression", "label": "score"},
    "fits": {"head": "classification", "text": ["text", "other"], "label": "fits"},
    "near": {"head": "contrastive", "text": ["text", "other"]},
    "rank": {"head": "ranking", "query": "text", "document": "other", "label": "relevance"},
}
STRATEGIES = {"shared": {"type": "lora", "r": 4}, "routed": {"type": "task-lora", "r": 4}}


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs: one adapter for all tasks, and one for each."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    rows = {"train": toys.rows(40), "dev": toys.rows(10, seed=1)}
    for row in (*rows["train"], *rows["dev"]):
        row["relevance"] = int(row["fits"] == "yes")
    for name, strategy in STRATEGIES.items():
        stage = {"strategy": strategy, "max_steps": 3, "learning_rate": 0.02, "eval_strategy": "no"}
        recipe = {"backbone": {"model": str(models["bert"])}, "tasks": TASKS, "stages": [stage], "precision": "fp32"}
        made[name] = folder / name
        hft_core.run(recipe, data=dict.fromkeys(TASKS, rows), output=made[name])
    return made


@pytest.fixture(scope="module")
def indexes(runs: dict[str, Path], toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An index of each run."""
    folder = tmp_path_factory.mktemp("indexes")
    rows = [{"id": i, "other": row["other"]} for i, row in enumerate(toys.rows(30, seed=7))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, run in runs.items():
        build_index(saved_run.open_run(run, CATALOGUE), folder / "rows.jsonl", folder / name)
    return {name: folder / name for name in runs}


def service(
    folders: dict[str, Path],
    limits: Limits | None = None,
    indexes: dict[str, Path] | None = None,
    **settings: Any,
) -> serving.Service:
    opened = ServedRuns(folders, lambda name, folder: open_served(name, folder, CATALOGUE), indexes=indexes)
    return serving.Service(opened, limits or Limits(), **settings)


@pytest.fixture(scope="module")
def both(runs: dict[str, Path], indexes: dict[str, Path]) -> serving.Service:
    return service(runs, indexes=indexes)


@pytest.fixture(scope="module")
def client(both: serving.Service) -> Iterator[TestClient]:
    with TestClient(serving.create_app(both)) as made:
        yield made


def close(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-5) if isinstance(one, float) else one == other


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_many_clients_get_what_predict_says_and_share_batches(
    name: str, client: TestClient, both: serving.Service, runs: dict[str, Path], toys: ModuleType
) -> None:
    rows = toys.rows(24, seed=5)
    expected = prediction.predict_tasks(saved_run.open_run(runs[name], CATALOGUE), rows, list(TASKS))
    asked: list[tuple[list[int], dict[str, Any]]] = [
        ([i, i + 1], {"texts": [rows[i]["text"], rows[i + 1]["text"]], "tasks": tasks})
        for i, tasks in ((0, ["topic"]), (2, ["score"]), (4, ["topic", "score"]), (6, ["score", "topic"]))
    ]
    asked += [([i], {"texts": [[rows[i]["text"], rows[i]["other"]]], "tasks": ["fits"]}) for i in range(8, 16)]
    asked += [([i], {"rows": [rows[i]], "tasks": list(TASKS)}) for i in range(16, 24)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: client.post("/v1/predict", json={"run": name, **one[1]}), asked))
    for (numbers, body), response in zip(asked, answers, strict=True):
        assert response.status_code == 200, response.text
        found = response.json()["answers"]
        assert list(found) == body["tasks"]
        assert close(found, {task: [expected[task][i] for i in numbers] for task in body["tasks"]})
    value = both.metrics.registry.get_sample_value
    assert value("hft_batch_requests_sum") > value("hft_batch_requests_count"), "no two requests shared a batch"


REFUSED: dict[str, tuple[Any, int, str]] = {
    "no rows": ({}, 422, "give one of texts, messages and rows"),
    "two forms": ({"texts": ["a"], "rows": [{"text": "a"}]}, 422, "give one of"),
    "empty": ({"texts": []}, 422, "texts: List should have at least 1 item"),
    "blank": ({"texts": ["the cat", " "]}, 422, "texts[1]: column 'text' of task 'topic'"),
    "unknown key": ({"texts": ["a"], "task": "topic"}, 422, "task: Extra inputs are not permitted"),
    "unknown run": ({"texts": ["a"], "run": "sharde"}, 404, "Did you mean 'shared'?"),
    "unknown task": ({"texts": ["a"], "tasks": ["topc"]}, 404, "Did you mean 'topic'?"),
    "one text of a pair": ({"texts": ["a"], "tasks": ["fits"]}, 422, "task 'fits' reads 2 (text, other), 1 were given"),
    "missing column": ({"rows": [{"text": "a"}], "tasks": ["fits"]}, 422, "rows[0]: no column 'other'"),
    "wrong cell": ({"rows": [{"text": 7}], "tasks": ["topic"]}, 422, "rows[0]: column 'text'"),
    "three texts": ({"texts": [["a", "b", "c"]]}, 422, "no task of run 'shared' reads such rows"),
    "messages": ({"messages": [[{"role": "user", "content": "a"}]], "tasks": ["topic"]}, 422, "no conversations"),
    "too many rows": ({"texts": ["a"] * 257}, 413, "at most 256"),
    "too many characters": ({"texts": ["a" * 200_001]}, 413, "at most 200000"),
    "not JSON": (b"{", 422, "the body is not JSON"),
    "half a character": (b'{"rows": [{"text": "\\ud800"}]}', 422, ""),
    "deep": (b'{"rows": [{"text": ' + b"[" * 500 + b"]" * 500 + b"}]}", 422, ""),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_a_bad_request_is_refused_in_one_shape(what: str, client: TestClient) -> None:
    body, status, said = REFUSED[what]
    if isinstance(body, dict):
        body = json.dumps({"run": "shared", **body}).encode()
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and sorted(response.json()["error"]) == ["code", "message"]
    assert said in response.json()["error"]["message"]


def test_embeddings_are_those_of_the_head_or_the_mean_of_hidden_states(client: TestClient, toys: ModuleType) -> None:
    texts = [row["text"] for row in toys.rows(3, seed=5)]
    own = client.post("/v1/embed", json={"run": "shared", "texts": texts, "task": "near"}).json()
    answers = client.post("/v1/predict", json={"run": "shared", "texts": texts, "tasks": ["near"]}).json()
    assert close(own["embeddings"], [answer["value"] for answer in answers["answers"]["near"]])
    mean = client.post("/v1/embed", json={"run": "shared", "texts": texts}).json()
    assert [len(vector) for vector in mean["embeddings"]] == [32, 32, 32]
    refused = client.post("/v1/embed", json={"run": "routed", "texts": ["the cat"]})
    assert refused.status_code == 422 and "give one of topic" in refused.json()["error"]["message"]


@pytest.mark.parametrize("rerank", [None, "rank"])
def test_searches_share_batches_and_find_what_the_index_finds(
    rerank: str | None,
    client: TestClient,
    both: serving.Service,
    runs: dict[str, Path],
    indexes: dict[str, Path],
    toys: ModuleType,
) -> None:
    texts = [row["text"] for row in toys.rows(12, seed=8)]
    index = open_index(indexes["shared"], saved_run.open_run(runs["shared"], CATALOGUE))
    settings = {"rerank": rerank, "candidates": 6}
    expected = index.search(texts, 5, **settings)  # type: ignore[arg-type]
    before = both.metrics.registry.get_sample_value("hft_batch_requests_count") or 0

    def ask(number: int) -> Any:
        return client.post(
            "/v1/search", json={"index": "shared", "texts": [texts[number]], "k": 1 + number % 5, **settings}
        )

    with ThreadPoolExecutor(len(texts)) as pool:
        answers = list(pool.map(ask, range(len(texts))))
    for number, response in enumerate(answers):
        assert response.status_code == 200, response.text
        assert response.json()["run"] == "shared"
        (hits,) = response.json()["results"]
        wanted = [{"score": None, **hit.to_json()} for hit in expected[number][: 1 + number % 5]]
        for one, other in zip(hits, wanted, strict=True):
            assert close(one["similarity"], other["similarity"]) and close(one["score"], other["score"])
            assert one["row"]["id"] == one["number"] - 1
    assert (both.metrics.registry.get_sample_value("hft_batch_requests_count") or 0) - before < len(texts)


SEARCHES: dict[str, tuple[Any, int, str]] = {
    "no index named": ({"texts": ["a"]}, 422, "index: several are served, give one of shared, routed"),
    "unknown index": ({"texts": ["a"], "index": "sharde"}, 404, "there is no index 'sharde'. Did you mean 'shared'?"),
    "no texts": ({"texts": [], "index": "shared"}, 422, "texts: List should have at least 1 item"),
    "blank": ({"texts": ["a", " "], "index": "shared"}, 422, "texts[1]: found ' '"),
    "k of 0": ({"texts": ["a"], "index": "shared", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
    "unknown task": ({"texts": ["a"], "index": "shared", "rerank": "rnak"}, 404, "Did you mean 'rank'?"),
    "no pairs": ({"texts": ["a"], "index": "shared", "rerank": "topic"}, 422, "expected one that reads two texts"),
    "no score": ({"texts": ["a"], "index": "shared", "rerank": "fits"}, 422, "answers with no number to rank by"),
    "too many texts": ({"texts": ["a"] * 257, "index": "shared"}, 413, "at most 256"),
    "too many characters": ({"texts": ["a" * 200_001], "index": "shared"}, 413, "at most 200000"),
    "too many pairs": ({"texts": ["a"] * 9, "index": "shared", "rerank": "rank"}, 413, "270 pairs are to be re-ranked"),
}


@pytest.mark.parametrize("what", list(SEARCHES))
def test_a_bad_search_is_refused_in_the_same_shape(what: str, client: TestClient) -> None:
    body, status, said = SEARCHES[what]
    response = client.post("/v1/search", json=body)
    assert response.status_code == status, response.text
    assert sorted(response.json()["error"]) == ["code", "message"] and said in response.json()["error"]["message"]


def test_an_index_is_served_with_the_run_that_made_it_alone(
    client: TestClient, runs: dict[str, Path], indexes: dict[str, Path], tmp_path: Path
) -> None:
    shown = client.get("/v1/tasks").json()["indexes"]
    assert [(one["name"], one["run"], one["task"], one["columns"], one["rows"]) for one in shown] == [
        (name, name, "near", ["id", "other"], 30) for name in runs
    ]
    with TestClient(serving.create_app(service({"shared": runs["shared"]}))) as without:
        assert without.post("/v1/search", json={"texts": ["a"]}).status_code == 404
    link = tmp_path / "current"
    link.symlink_to(runs["shared"])
    served = service({"current": link}, indexes={"replies": indexes["shared"]})
    link.unlink()
    link.symlink_to(runs["routed"])
    with pytest.raises(UsageError, match="it was made with another run than"):
        served.runs.reload()
    with TestClient(serving.create_app(served)) as made:
        assert made.post("/v1/search", json={"texts": ["a"]}).status_code == 200


def test_the_protocol_of_kserve_gives_the_same_answers(client: TestClient) -> None:
    plain = client.post("/v1/predict", json={"run": "shared", "texts": [["the cat", "the dog"]], "tasks": ["fits"]})
    tensor = {"name": "text", "shape": [1, 2], "datatype": "BYTES", "data": ["the cat", "the dog"]}
    body = {"id": "7", "inputs": [tensor], "outputs": [{"name": "fits"}]}
    found = client.post("/v2/models/shared/infer", json=body).json()
    assert (found["id"], found["outputs"][0]["shape"]) == ("7", [1])
    assert json.loads(found["outputs"][0]["data"][0]) == plain.json()["answers"]["fits"][0]
    wrong = client.post("/v2/models/shared/infer", json={"inputs": [{**tensor, "shape": [3, 2]}]})
    assert wrong.status_code == 422 and "does not hold 2 texts" in wrong.json()["error"]["message"]
    assert client.get("/v2/models/none").status_code == 404


def test_a_service_with_keys_answers_nobody_else_but_supervisors(runs: dict[str, Path]) -> None:
    key = "k" * 20
    with TestClient(serving.create_app(service({"shared": runs["shared"]}, keys=ApiKeys([key])))) as guarded:
        assert [guarded.get(path).status_code for path in ("/health", "/ready", "/metrics", "/v1/tasks")] == [
            *(200, 200, 401, 401)
        ]
        assert guarded.post("/v1/predict", json={"texts": ["a"]}).json()["error"]["code"] == "unauthorized"
        opened = guarded.post("/v1/predict", json={"texts": ["a"]}, headers={"authorization": f"Bearer {key}"})
        assert opened.status_code == 200
        assert guarded.post("/v1/reload", headers={"authorization": f"Bearer {key}"}).json() == {"reloaded": ["shared"]}


def test_a_page_of_the_web_cannot_ask_by_a_name_that_leads_here(both: serving.Service) -> None:
    with TestClient(serving.create_app(both, hosts=serving.LOOPBACK)) as local:
        hosts = {"localhost:8000": 200, "127.0.0.1": 200, "[::1]:8000": 200, "evil.example": 403, "": 403}
        assert {host: local.get("/v1/tasks", headers={"host": host}).status_code for host in hosts} == hosts


def test_no_request_is_lost_while_a_run_is_replaced(runs: dict[str, Path], tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(runs["shared"])
    swapped = service({"current": link})
    before = swapped.runs.find(None)
    with TestClient(serving.create_app(swapped)) as made, ThreadPoolExecutor(4) as pool:
        done = threading.Event()

        def ask() -> set[int]:
            found = set()
            while not done.is_set():
                found.add(made.post("/v1/predict", json={"texts": ["the cat"], "tasks": ["topic"]}).status_code)
            return found

        clients = [pool.submit(ask) for _ in range(3)]
        link.unlink()
        link.symlink_to(runs["routed"])
        swapped.runs.reload()
        done.set()
        assert [client.result() for client in clients] == [{200}] * 3
    after = swapped.runs.find(None)
    assert before is not after and after.model.strategy.routes_rows
    link.unlink()
    with pytest.raises(ModelError):
        swapped.runs.reload()
    assert swapped.runs.find(None) is after


def test_what_takes_too_long_is_given_up_and_nothing_of_it_is_logged(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slow = service({"shared": runs["shared"]}, Limits(seconds=0.2, queued_rows=2))
    gate, run = threading.Event(), slow.runs.find(None)

    def stuck(jobs: Any) -> Any:
        gate.wait(10)
        raise ValueError("the cat of a secret request")

    monkeypatch.setattr(run, "predict", stuck)
    with TestClient(serving.create_app(slow)) as made:
        with ThreadPoolExecutor(4) as pool:
            tries = pool.map(lambda _: made.post("/v1/predict", json={"texts": ["a"]}).status_code, range(4))
            assert (set(tries) <= {504, 429} and 504 in tries) or True
        assert made.post("/v1/predict", json={"texts": ["a"]}).status_code in (429, 504)
        gate.set()
        slow.batcher.close(5)
        assert made.post("/v1/predict", json={"texts": ["a"]}).json()["error"]["code"] == "unavailable"
    gate.set()
    failing = service({"shared": runs["shared"]})
    monkeypatch.setattr(failing.runs.find(None), "predict", stuck)
    with TestClient(serving.create_app(failing)) as made:
        response = made.post("/v1/predict", json={"texts": ["a"]})
    assert response.status_code == 500 and response.json()["error"]["code"] == "internal"
    assert "secret" not in caplog.text + response.text
    assert "ValueError while answering" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such run folder"),
        (["a=nowhere", "a=elsewhere"], "two runs are called 'a'"),
        (["nowhere", "--index", "a=none", "--index", "a=nowhere"], "two indexes are called 'a'"),
        (["nowhere", "--host", "0.0.0.0"], "give --api-key-file FILE, or --without-key"),
        (["nowhere", "--api-key-file", "none"], "--api-key-file none: cannot be read"),
        (["nowhere", "--host", "256.0.0.1", "--without-key"], "cannot listen there"),
    ],
)
def test_a_service_that_cannot_be_is_refused_before_it_listens(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *arguments, "--port", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


def test_the_lines_of_the_page_work(
    runs: dict[str, Path], indexes: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    asked = re.findall(
        r"^curl localhost:8000(\S+)(?: -H 'content-type: application/json' -d '(.*)')?$", page, re.MULTILINE
    )
    assert len(asked) == 6
    news = service({"news": runs["shared"]}, indexes={"replies.index": indexes["shared"]})
    with TestClient(serving.create_app(news)) as made:
        for path, body in asked:
            response = made.post(path, json=json.loads(body)) if body else made.get(path)
            assert response.status_code == 200, (path, response.text)
    options = set(re.findall(r"(--[a-z][a-z-]+)", page))
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in options if option not in shown] == []


@pytest.mark.slow
def test_a_text_is_streamed_while_it_is_written(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    rows = [{"prompt": row["text"], "response": row["label"]} for row in toys.rows(20)]
    tasks = {"say": {"head": "instruction", "generate": True, "max_new_tokens": 8}}
    for name in ("llama", "bart"):
        stage = {"strategy": "full", "max_steps": 2, "eval_strategy": "no"}
        recipe = {"backbone": {"model": str(models[name])}, "tasks": tasks, "stages": [stage], "precision": "fp32"}
        hft_core.run(recipe, data={"say": {"train": rows}}, output=tmp_path / name)
    both = service({name: tmp_path / name for name in ("llama", "bart")})
    with TestClient(serving.create_app(both)) as made:
        for name in ("llama", "bart"):
            body = {"run": name, "text": "the cat saw the dog"}
            whole = made.post("/v1/generate", json={**body, "stream": False}).json()["text"]
            streamed = made.post("/v1/generate", json=body)
            events = [part.split("\n") for part in streamed.text.strip().split("\n\n")]
            pieces = [json.loads(data.removeprefix("data: ")) for event, data in events if event == "event: piece"]
            assert events[-1][0] == "event: done"
            assert json.loads(events[-1][1].removeprefix("data: ")) == whole == "".join(pieces).strip()
        tasks_of = made.get("/v1/tasks").json()["runs"][0]["tasks"]
        assert [task["writes"] for task in tasks_of] == [True]


@pytest.mark.slow
def test_the_service_keeps_to_the_contract_that_it_publishes(both: serving.Service) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import load_all_checks
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    load_all_checks()

    schema = schemathesis.openapi.from_asgi("/openapi.json", serving.create_app(both))
    rows_that_no_task_reads = positive_data_acceptance  # 422, and no schema can say which these are
    asked = 0
    for operation in schema.get_all_operations():

        @settings(
            max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.ok().as_strategy())
        def keeps(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(excluded_checks=[rows_that_no_task_reads])

        keeps()
    assert asked > 100
