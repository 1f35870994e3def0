"""The server behind `hft ui`: who gets in, which paths it touches, and what it says of runs that live, stop or die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue, UsageError

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")

from fastapi.testclient import TestClient

from hft_core.ui import run_process
from hft_core.ui.app import create_app
from hft_core.ui.live_log import follow
from hft_core.ui.workspace import Workspace

ROOT = Path(__file__).parents[2]
PORT, TOKEN, HOST = 8765, "a-token-of-some-length", "http://127.0.0.1:8765"
NAMES = frozenset({f"127.0.0.1:{PORT}"})
CATALOGUE = Catalogue.discover()


@pytest.fixture(scope="module")
def space(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a model and a finished run; beside it, a file that is none of it."""
    folder = tmp_path_factory.mktemp("around") / "space"
    folder.mkdir()
    (folder / "model").symlink_to(models["bert"])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(40)))
    (folder.parent / "secret.csv").write_text("text,label\na,b\n")
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": {"head": "classification"}, "score": {"head": "regression", "label": "score"}},
        "stages": [{"strategy": "full", "max_steps": 2, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    rows = {"train": toys.rows(40), "dev": toys.rows(8, seed=1)}
    hft_core.run(recipe, data={"topic": rows, "score": rows}, output=folder / "done")
    return folder


@pytest.fixture(scope="module")
def app(space: Path, models: Any) -> Any:
    workspace = Workspace(space, [Path(models["bert"])])
    return create_app(workspace, CATALOGUE, token=TOKEN, port=PORT, names=NAMES)


@pytest.fixture(scope="module")
def page(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url=HOST, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def test_only_the_page_itself_gets_in(app: Any) -> None:
    with TestClient(app, base_url=HOST, follow_redirects=False) as stranger:
        assert [stranger.get(path).status_code for path in ("/", "/app.js", "/api/runs", "/?token=wrong")] == [401] * 4
        entered = stranger.get(f"/?token={TOKEN}")
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert {"HttpOnly", "SameSite=strict"} <= set(entered.headers["set-cookie"].split("; "))
        shown = stranger.get("/")
        assert shown.status_code == 200 and "script-src 'self'" in shown.headers["content-security-policy"]
        assert "access-control-allow-origin" not in shown.headers
        refused: list[dict[str, str]] = [
            {"host": "evil.example:8765"},
            {"host": "127.0.0.1:9999"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"content-type": "text/plain"},
        ]
        body = json.dumps({"run": "done"}).encode()
        for headers in refused:
            sent = {"content-type": "application/json", **headers}
            assert stranger.post("/api/stop", content=body, headers=sent).status_code == 403, headers


@pytest.mark.parametrize(
    "name", ["..", "../secret.csv", "/etc", "done/../../secret.csv", "", ".", "model", "a\0b", "none"]
)
def test_no_run_is_outside_of_the_folder(name: str, page: TestClient) -> None:
    for path in ("/api/run", "/api/log", "/api/report", "/api/tasks"):
        assert page.get(path, params={"name": name}).status_code == 422, path


@pytest.mark.parametrize(
    "changed",
    [
        {"tasks": {"t": {"head": "classification", "data": "../secret.csv"}}},
        {"tasks": {"t": {"head": "classification", "data": "/etc/passwd"}}},
        {"tasks": {"t": {"head": "classification", "data": {"files": ["rows.jsonl", "~/x.csv"]}}}},
        {"tasks": {"t": {"head": "classification", "data": "https://example.org/x.csv"}}},
        {"tasks": {"t": {"head": "classification", "data": "hf://me/news:train"}}},
        {"tasks": {"t": {"head": "classification", "data": {"sql": "SELECT 1 ORDER BY 1", "database": "/x.db"}}}},
        {"backbone": {"model": "/"}},
    ],
)
def test_no_recipe_names_a_file_outside_of_the_folder(changed: dict[str, Any], page: TestClient, space: Path) -> None:
    recipe = {"backbone": {"model": "model"}, "tasks": {}, "stages": [{"strategy": "full"}], **changed}
    for path in ("/api/validate", "/api/start"):
        answer = page.post(path, json={"name": "new", "yaml": json.dumps(recipe)}).json()
        assert "is outside of" in answer["error"]
    assert not (space / "new").exists() and not (space / "new.yaml").exists()


def test_forms_become_yaml_and_a_command_and_are_checked_as_one_types(page: TestClient) -> None:
    seams = page.get("/api/plugins").json()
    assert {"lora", "full"} <= {plugin["name"] for plugin in seams["plugins"]["strategy"]}
    assert seams["files"] == ["rows.jsonl"]
    form = {
        "name": "new",
        "backbone": {"type": "", "options": {"model": "model"}},
        "tasks": [{"name": "topic", "head": {"type": "classification", "options": {}}, "data": "rows.jsonl"}],
        "stages": [{"strategy": {"type": "lora", "options": {"r": "8"}}, "settings": {"max_steps": "3", "epochs": ""}}],
    }
    answer = page.post("/api/compose", json=form).json()
    assert answer == {
        "yaml": "backbone:\n  model: model\ntasks:\n  topic:\n    head: classification\n    data: rows.jsonl\n"
        "stages:\n- strategy:\n    type: lora\n    r: 8\n  max_steps: 3\n",
        "command": "hft run new.yaml --out new",
        "error": "",
    }
    form["stages"] = [{"strategy": {"type": "lora", "options": {"r": "many"}}}]
    assert "r" in page.post("/api/compose", json=form).json()["error"]
    wrong = page.post("/api/validate", json={"name": "done", "yaml": answer["yaml"]}).json()
    assert "there is a folder 'done' already" in wrong["error"]
    assert (
        "Did you mean"
        in page.post("/api/validate", json={"yaml": answer["yaml"].replace("lora", "loar")}).json()["error"]
    )


def test_a_finished_run_is_shown_and_tried_and_the_words_that_mattered_are_those_of_the_model(
    page: TestClient, toys: ModuleType
) -> None:
    (listed,) = [run for run in page.get("/api/runs").json() if run["name"] == "done"]
    assert listed["state"] == "finished" and set(listed["scores"]["dev"]) == {"topic", "score"}
    assert [task["name"] for task in page.get("/api/tasks", params={"name": "done"}).json()] == ["topic", "score"]
    text = toys.rows(1, seed=9)[0]["text"]
    asked = {"run": "done", "task": "topic", "texts": [text]}
    answer = page.post("/api/predict", json=asked).json()["answer"]
    explained = page.post("/api/explain", json=asked).json()
    assert explained["answer"]["label"] == answer["label"]
    assert explained["answer"]["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert [word["word"] for word in explained["words"]] == text.split()
    without = page.post("/api/predict", json={**asked, "texts": [text.partition(" ")[2]]}).json()["answer"]
    fall = answer["probabilities"][answer["label"]] - without["probabilities"][answer["label"]]
    assert explained["words"][0]["weight"] == pytest.approx(fall, abs=1e-5)
    refused = page.post("/api/explain", json={**asked, "task": "score"})
    assert refused.status_code == 422 and "no probabilities" in refused.json()["error"]


def until(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_process_is_known_by_number_and_start_and_a_killed_one_is_dead(page: TestClient, space: Path) -> None:
    folder = space / "killed"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("tasks: {}\n")
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    facts = {"pid": sleeping.pid, "started": run_process._start_of(sleeping.pid)}
    (folder / run_process.PROCESS_FILE).write_text(json.dumps(facts))

    def state() -> tuple[str, bool]:
        found = page.get("/api/run", params={"name": "killed"}).json()
        return found["state"], found["can_resume"]

    try:
        assert state() == ("running", False)
        (folder / run_process.PROCESS_FILE).write_text(json.dumps({**facts, "started": "0"}))
        assert state() == ("dead", True), "the number belongs to another process by now"
        (folder / run_process.PROCESS_FILE).write_text(json.dumps(facts))
        assert state() == ("running", False)
    finally:
        sleeping.kill()
    until(lambda: state() == ("dead", True))  # a zombie until this process waits for it
    sleeping.wait()
    assert page.post("/api/stop", json={"run": "killed"}).status_code == 422
    (folder / "console.txt").write_text("loading\nerror: out of memory\n")
    assert page.get("/api/run", params={"name": "killed"}).json()["message"] == "error: out of memory"


@pytest.mark.slow
def test_a_run_is_started_stopped_and_resumed_and_outlives_the_server(
    app: Any, page: TestClient, space: Path, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "plugins")]))
    stage = {"strategy": "full", "max_steps": 4000, "eval_strategy": "no"}
    task = {"head": "classification", "data": "rows.jsonl"}
    recipe = {"backbone": {"model": "model"}, "tasks": {"topic": task}, "stages": [stage], "precision": "fp32"}
    recipe["output"] = {"logging_steps": 1}
    assert page.post("/api/start", json={"name": "long", "yaml": json.dumps(recipe)}).json() == {"run": "long"}

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = another.get("/api/run", params={"name": "long"}).json()
        return found

    restarted = create_app(Workspace(space, [Path(models["bert"])]), CATALOGUE, token="t" * 20, port=PORT, names=NAMES)
    try:
        with TestClient(restarted, base_url=HOST, headers={"authorization": f"Bearer {'t' * 20}"}) as another:
            until(lambda: shown()["step"] > 2)
            assert shown()["state"] == "running" and shown()["can_stop"]
            assert another.post("/api/resume", json={"run": "long"}).status_code == 422
            another.post("/api/stop", json={"run": "long"})
            until(lambda: shown()["state"] != "running")
            assert shown()["state"] == "stopped" and shown()["can_resume"]
            another.post("/api/resume", json={"run": "long"})
            until(lambda: shown()["state"] == "running" and shown()["step"] > 3)
            os.kill(json.loads((space / "long" / run_process.PROCESS_FILE).read_text())["pid"], signal.SIGKILL)
            until(lambda: shown()["state"] == "dead")
    finally:
        if (pid := run_process._pid(space / "long")) is not None:
            os.kill(pid, signal.SIGKILL)


async def collected(log: Path, offset: int = 0) -> list[str]:
    return [event async for event in follow(log, offset, lambda: False, poll=0.0)]


def test_a_log_is_followed_by_whole_lines_and_from_where_it_was_left(tmp_path: Path) -> None:
    import asyncio

    log = tmp_path / "log.jsonl"
    first = json.dumps({"event": "step", "step": 1, "losses": {"a": 0.5}}) + "\n"
    log.write_text(first + json.dumps({"event": "checkpoint"}) + "\nnot json\n" + '{"event": "st')
    events = asyncio.run(collected(log))
    assert len(events) == 2 and events[1].startswith("event: end")
    (data,) = [line for line in events[0].splitlines() if line.startswith("data: ")]
    assert json.loads(data.removeprefix("data: ")) == [json.loads(first)]
    until_there = int(events[0].splitlines()[0].removeprefix("id: "))
    assert until_there == log.read_text().rindex("\n") + 1
    log.write_text(log.read_text() + 'ep", "step": 2}\n')
    again = asyncio.run(collected(log, until_there))
    assert '"step": 2' in again[0] and '"step": 1' not in again[0]


def test_a_link_out_of_the_folder_is_no_run_and_no_data(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("recipe.yaml", "log.jsonl"):
        (outside / name).write_text("")
    (outside / "rows.csv").write_text("text\n")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "linked").symlink_to(outside)
    (inside / "rows.csv").symlink_to(outside / "rows.csv")
    workspace = Workspace(inside)
    assert workspace.runs() == [] and workspace.data_files() == []
    with pytest.raises(UsageError, match="outside of"):
        workspace.folder("linked")
    with pytest.raises(UsageError, match="outside of"):
        workspace.check_paths({"data": "linked/rows.csv"})
