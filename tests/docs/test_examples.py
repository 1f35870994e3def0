"""The examples run: the job service as its clients see it, and the notebook's cells in their order."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SERVICE, NOTEBOOK = EXAMPLES / "job_service.py", EXAMPLES / "stages.ipynb"
PATIENCE = 60.0

RECIPE = {
    "backbone": "tiny",
    "tasks": {"topic": {"head": "classification"}, "language": {"head": "mlm"}},
    "stages": [{"strategy": {"type": "lora", "r": 4}, "per_device_train_batch_size": 8, "num_train_epochs": 2}],
    "precision": "fp32",
}


# --- the service


@pytest.fixture(scope="module")
def service() -> ModuleType:
    pytest.importorskip("fastapi", reason="the service is made with it")
    spec = importlib.util.spec_from_file_location("job_service", SERVICE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(service: ModuleType, models: Any, tmp_path: Path, one_thread: None) -> Any:
    from fastapi.testclient import TestClient

    return TestClient(service.create_app({"tiny": str(models["bert"])}, tmp_path / "jobs"))


@pytest.fixture
def rows(toys: ModuleType) -> dict[str, Any]:
    return {"topic": toys.rows(64), "language": [{"text": row["text"]} for row in toys.rows(48, seed=4)]}


def submitted(client: Any, recipe: dict[str, Any], rows: dict[str, Any]) -> str:
    answer = client.post("/jobs", json={"recipe": recipe, "rows": rows})
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] in ("queued", "running")
    return str(answer.json()["id"])


def ended(client: Any, job: str, look: Callable[[dict[str, Any]], None] = lambda status: None) -> dict[str, Any]:
    """The job's last status; `look` sees those before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status: dict[str, Any] = client.get(f"/jobs/{job}").json()
        look(status)
        if status["state"] in ("done", "failed"):
            return status
        time.sleep(0.01)
    raise AssertionError(f"the job has not ended: {status}")


def test_a_job_is_trained_while_its_progress_is_read_and_then_predicts(client: Any, rows: Any) -> None:
    seen: list[int] = []
    job = submitted(client, RECIPE, rows)
    early = client.post(f"/jobs/{job}/predict", json={"task": "topic", "rows": rows["topic"][:1]})
    assert early.status_code == 409
    status = ended(client, job, lambda status: seen.append(status["progress"].get("step", 0)))
    assert status["state"] == "done", status["error"]
    assert status["progress"]["step"] == status["progress"]["steps"] > 10
    assert {*status["progress"]["losses"]} <= {"topic", "language"}
    assert len(set(seen)) > 3
    assert seen == sorted(seen)
    assert 0 <= status["results"]["test"]["topic"]["accuracy"] <= 1

    answer = client.post(f"/jobs/{job}/predict", json={"task": "topic", "rows": rows["topic"][:3]})
    assert answer.status_code == 200
    assert [set(each["probabilities"]) for each in answer.json()] == [{"animals", "money", "sport"}] * 3


def test_jobs_run_one_after_another_and_do_not_change_the_answers_of_a_finished_one(client: Any, rows: Any) -> None:
    first, second = submitted(client, RECIPE, rows), submitted(client, {**RECIPE, "seed": 1}, rows)
    question = {"task": "topic", "rows": rows["topic"][:2]}
    assert ended(client, first)["state"] == "done"
    meanwhile = client.post(f"/jobs/{first}/predict", json=question).json()
    assert ended(client, second)["state"] == "done"
    assert client.post(f"/jobs/{first}/predict", json=question).json() == meanwhile
    assert client.post(f"/jobs/{second}/predict", json=question).json() != meanwhile


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backbone": "/etc"}, "'/etc' is none of the service's, expected one of tiny"),
        ({"tasks": {"topic": {"head": "classification", "data": "/etc/passwd"}}}, "brings its rows"),
        ({"stages": [{"strateg": "lora"}]}, "Did you mean 'strategy'?"),
    ],
)
def test_a_request_for_files_or_with_a_wrong_recipe_is_refused(
    change: dict[str, Any], reason: str, client: Any, rows: Any
) -> None:
    answer = client.post("/jobs", json={"recipe": {**RECIPE, **change}, "rows": rows})
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_what_goes_wrong_later_ends_the_job_and_not_the_service(client: Any, rows: Any) -> None:
    unoffered = {**RECIPE, "tasks": {"topic": {"head": "distillation"}}}
    status = ended(client, submitted(client, unoffered, rows))
    assert (status["state"], "unknown head 'distillation'" in status["error"]) == ("failed", True)
    status = ended(client, submitted(client, RECIPE, {"topic": rows["topic"]}))
    assert status["state"] == "failed"
    assert "'data' is missing" in status["error"]
    job = submitted(client, RECIPE, rows)
    assert ended(client, job)["state"] == "done"
    answer = client.post(f"/jobs/{job}/predict", json={"task": "topic", "rows": [{"txt": "a bank"}]})
    assert (answer.status_code, "no column 'text'" in answer.json()["detail"]) == (422, True)
    assert client.get("/jobs/none").status_code == 404


def test_the_service_is_short_and_is_started_on_this_machine_only() -> None:
    text = SERVICE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    page = (EXAMPLES.parent / "how-to" / "embed-in-a-service.md").read_text(encoding="utf-8")
    for place in (text, page):
        assert "uvicorn --app-dir docs/examples --factory job_service:service --host 127.0.0.1" in place


# --- the notebook


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def test_the_notebook_holds_no_outputs() -> None:
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_notebooks_cells_run_in_their_order(models: Any, tmp_path: Path) -> None:
    """In a process of their own, as in a kernel; the tagged cell of parameters is followed by the test's, as papermill
    has it."""
    script = []
    for cell in cells():
        if cell["cell_type"] == "code":
            script.append("".join(cell["source"]))
            if "parameters" in cell["metadata"].get("tags", ()):
                script.append(f"MODEL, ROWS = {str(models['bert'])!r}, 120")
    script.append("import json; print(json.dumps([result.to_json(), len(losses.steps), session.left]))")
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result, steps, left = json.loads(done.stdout)
    assert [stage["name"] for stage in result["stages"]] == ["read", "learn"]
    assert steps == sum(stage["steps"] for stage in result["stages"])
    assert left == []
    assert list(tmp_path.iterdir()) == []
