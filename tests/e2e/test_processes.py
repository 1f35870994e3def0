"""Two processes learn what one does, bit for bit the same in both, and stop and resume together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

Hft = Callable[..., str]
InTwo = Callable[..., list[tuple[str, int]]]

CASES: dict[str, dict[str, Any]] = {
    "sum": {"strategy": "full"},
    "uncertainty": {"strategy": "full", "combiner": "uncertainty"},
    "not linear in the losses": {"strategy": "full", "combiner": "famo"},
    "random": {"strategy": {"type": "lora", "r": 4}, "combiner": "rlw"},
    "gradients of all weights": {"strategy": "full", "combiner": "pcgrad"},
    "gradients": {"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"},
    "gradients at the representation": {"strategy": "full", "combiner": {"type": "graddrop", "at": "representation"}},
    "one task a step": {"strategy": "full", "sampling": "round-robin"},
    "gradient norms": {"strategy": {"type": "lora", "r": 4}, "combiner": "gradnorm"},
}


ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The environment of a process that belongs to no group."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]), "OMP_NUM_THREADS": "1"}


POISONED_HEAD = str(Path(__file__).parent / "poisoned_head.py")


def written(path: Path, model: Path, rows: Path, score: str = "regression", **stage: Any) -> Path:
    data = str(rows)
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {
            "topic": {"head": "classification", "data": data},
            "score": {"head": {"type": score, "label": "score"}, "data": data},
            "language": {"head": "mlm", "data": data},
            "near": {"head": {"type": "contrastive", "text": ["text", "other"]}, "data": data},
        },
        "stages": [
            {
                "max_steps": 110,
                "train_batch_size": 20,
                "max_rows_per_batch": 10,
                "learning_rate": 1e-4,
                "adam_epsilon": 1e-4,
                "eval_strategy": "steps",
                "eval_steps": 55,
                "load_best_model_at_end": False,
                **stage,
            }
        ],
        "precision": "fp32",
        "output": {"logging_steps": 1},
    }
    path.write_text(json.dumps(recipe))
    return path


@pytest.fixture
def rows(toys: ModuleType, tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(150)))
    return path


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hft_core", *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "model").rglob("*.safetensors"))
    return {f"{path.relative_to(folder)}:{name}": t for path in files for name, t in load_file(path).items()}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, models: Any, rows: Path, tmp_path: Path, hft: Hft) -> None:
    """After 100 steps the processes compare their weights bit by bit: a run that ends has found them the same."""
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, **CASES[case]))
    hft("run", recipe, "--out", str(tmp_path / "one"))
    hft("run", recipe, "--out", str(tmp_path / "two"), "--processes", "2")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [step.keys() for step in one] == [step.keys() for step in two]
    first = max(abs(a[task] - b[task]) for a, b in zip(one[:10], two[:10], strict=True) for task in a)
    assert first < 1e-6 * max(value for step in one for value in step.values())
    later = max(abs(a[task] - b[task]) / max(a[task], 1.0) for a, b in zip(one, two, strict=True) for task in a)
    assert later < 1e-4
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    for split in ("dev", "test"):
        for task, scores in results[0]["final"][split].items():
            assert scores == pytest.approx(results[1]["final"][split][task], abs=2e-3), task


def test_a_signal_to_one_process_stops_both_and_they_resume_bit_for_bit(
    models: Any, rows: Path, tmp_path: Path, hft: Hft
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, combiner="pcgrad", max_steps=150))
    hft("run", recipe, "--out", str(tmp_path / "whole"), "--processes", "2")
    folder = tmp_path / "stopped"
    process = started("run", recipe, "--out", str(folder), "--processes", "2")
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count('"step"') > 20):
        time.sleep(0.05)
    (second,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _is_second_of(entry, process.pid)
    ]
    os.kill(second, signal.SIGTERM)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 143, error[-2000:]
    assert f"hft resume {folder}" in error
    hft("resume", str(folder), "--processes", "2")
    whole, resumed = weights(tmp_path / "whole"), weights(folder)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(folder) == losses(tmp_path / "whole")


def _is_second_of(entry: Path, parent: int) -> bool:
    try:
        status = (entry / "stat").read_text().rpartition(")")[2].split()
        return int(status[1]) == parent and b"RANK=1" in (entry / "environ").read_bytes().split(b"\0")
    except (OSError, IndexError):  # it has just ended
        return False


def test_a_world_that_is_not_what_was_asked_for_is_refused(models: Any, rows: Path, tmp_path: Path) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows))
    script = "from accelerate import Accelerator; Accelerator(cpu=True); import os; os.environ['WORLD_SIZE'] = '2'; "
    script += f"import hft_core; hft_core.run({recipe!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert "2 processes were asked for, but Accelerate runs 1" in done.stderr


def test_all_processes_compute_in_the_number_format_that_the_first_one_found(
    tmp_path: Path, in_two_processes: InTwo
) -> None:
    script = (
        "import os\n"
        "from hft_core.device import precision\nfrom hft_core.device.machine import find_machine\n"
        "mine = {'0': 'bf16', '1': 'fp32'}[os.environ['RANK']]\n"
        "precision.choose = lambda wanted, device: precision.Precision(mine, 'measured', 1.0)\n"
        "print(find_machine('auto').precision.name)\n"
    )
    (tmp_path / "find.py").write_text(script)
    assert in_two_processes(tmp_path / "find.py") == [("bf16", 0), ("bf16", 0)]


def test_no_process_group_is_left_to_the_end_of_a_process(tmp_path: Path, in_two_processes: InTwo) -> None:
    """Its threads, met by the end of the process, abort it now and then: exit code 134 instead of its own."""
    script = (
        "import atexit, sys\n"
        "import torch.distributed as dist\n"
        "from hft_core.device.machine import find_machine\n"
        "atexit.register(lambda: print(dist.is_initialized()))  # comes after what is registered later\n"
        "find_machine('fp32')\n"
        "assert dist.is_initialized()\n"
        "sys.exit(143)\n"
    )
    (tmp_path / "leave.py").write_text(script)
    assert in_two_processes(tmp_path / "leave.py") == [("False", 143), ("False", 143)]


# --- another number of processes, and what goes wrong in one of them


STOP = """
import os, signal
from hft_core import hookimpl

@hookimpl
def hft_step_finished(event):
    if event.step == int(os.environ["STOP_AFTER"]):
        signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_is_resumed_with_another_number_of_processes(
    before: int, after: int, models: Any, rows: Path, tmp_path: Path, hft: Hft
) -> None:
    """The rows of each step do not depend on it; the results say what is not as it would have been."""
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, combiner="pcgrad", max_steps=16, eval_steps=6))
    hft("run", recipe, "--out", str(tmp_path / "whole"))
    folder, plugin = tmp_path / "run", tmp_path / "stop.py"
    plugin.write_text(STOP)
    arguments = ("run", recipe, "--out", str(folder), "--processes", str(before), "--plugin", str(plugin))
    hft(*arguments, code=143, environment={"STOP_AFTER": "8"})
    (checkpoint,) = (folder / "checkpoints").glob("0*8")
    assert json.loads((checkpoint / "manifest.json").read_text())["world_size"] == before
    arguments = ("resume", str(folder), "--processes", str(after), "--plugin", str(plugin))
    hft(*arguments, code=143, environment={"STOP_AFTER": "12"})
    hft("resume", str(folder), "--processes", str(after))
    ours, theirs = losses(folder), losses(tmp_path / "whole")
    assert [step.keys() for step in ours] == [step.keys() for step in theirs]
    assert max(abs(a[task] - b[task]) for a, b in zip(ours, theirs, strict=True) for task in b) < 1e-5
    sizes = [
        [(line["rows"], line["tokens"]) for line in map(json.loads, (each / "log.jsonl").open()) if "losses" in line]
        for each in (folder, tmp_path / "whole")
    ]
    assert sizes[0] == sizes[1]
    one, two = weights(folder), weights(tmp_path / "whole")
    assert max(float((one[name] - two[name]).abs().max()) for name in two) < 1e-4
    found = json.loads((folder / "results.json").read_text())["warnings"]
    (warning,) = [w for w in found if "ignores the text" not in w and "texts" not in w]
    names = {1: "1 process on cpu", 2: "2 processes on cpu"}
    assert warning.startswith(f"the run was computed by {names[before]} and is resumed, after step 8 of its stage, by ")
    assert f"{names[after]}: its results equal those of an uninterrupted run up to rounding, not bit for bit" in warning


SHORT = """
import os, torch
from transformers import BertModel

forward, passes = BertModel.forward, []

def limited(trunk, *args, **inputs):
    if torch.is_grad_enabled() and os.environ.get("RANK") == os.environ["SHORT_RANK"]:
        passes.append(1)
        if len(passes) > 9:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …")
    return forward(trunk, *args, **inputs)

BertModel.forward = limited
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("short", ["0", "1"])
def test_memory_that_is_too_small_in_one_process_ends_all_with_a_clear_error(
    short: str, models: Any, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, eval_strategy="no"))
    plugin = tmp_path / "short.py"
    plugin.write_text(SHORT + STOP)
    monkeypatch.setenv("SHORT_RANK", short)
    monkeypatch.setenv("STOP_AFTER", "-1")
    begun = time.monotonic()
    process = started("run", recipe, "--out", str(tmp_path / "run"), "--processes", "2", "--plugin", str(plugin))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 1, error[-2000:]
    assert time.monotonic() - begun < 180  # and does not wait for the timeout of collectives
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 2, error[-2000:]
    assert all("gloo" not in line and "unexpected" not in line for line in told)
    assert any(
        line.startswith("error: stage 'stage-1', step ") and "out of memory; with several" in line for line in told
    )
    assert any(line.startswith("error: another process of the run has ") for line in told)
    if short == "1":
        assert any("process 1: stage 'stage-1', step " in line for line in told), told


def test_a_step_that_is_not_finite_is_skipped_by_both_and_named_as_by_one(
    models: Any, toys: ModuleType, tmp_path: Path, hft: Hft
) -> None:
    rows = toys.rows(150)
    for poisoned_row in range(9, 150, 18):
        rows[poisoned_row]["score"] = 1e10
    poisoned = tmp_path / "rows.jsonl"
    poisoned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    recipe = str(written(path, models["bert"], poisoned, "poisoned", max_steps=16, eval_strategy="no"))
    hft("--plugin", POISONED_HEAD, "run", recipe, "--out", str(tmp_path / "one"))
    hft("--plugin", POISONED_HEAD, "run", recipe, "--out", str(tmp_path / "two"), "--processes", "2")
    skipped = [
        [
            (line["step"], line["skipped"])
            for line in map(json.loads, (tmp_path / name / "log.jsonl").open())
            if line.get("skipped")
        ]
        for name in ("one", "two")
    ]
    assert skipped[0] == skipped[1]
    assert len(skipped[0]) >= 1
    assert all(reason.startswith("the loss of score was not finite on score rows [") for _, reason in skipped[0])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(tmp_path / "two").values())


def test_too_many_steps_that_are_not_finite_end_both(models: Any, toys: ModuleType, tmp_path: Path, hft: Hft) -> None:
    poisoned = tmp_path / "rows.jsonl"
    rows = [{**row, "score": 1e7 + index} for index, row in enumerate(toys.rows(150))]
    poisoned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    recipe = str(written(path, models["bert"], poisoned, "poisoned", max_steps=16, eval_strategy="no"))
    arguments = ("--plugin", POISONED_HEAD, "run", recipe, "--out", str(tmp_path / "run"), "--processes", "2")
    error = hft(*arguments, code=1)
    told = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(told) == 2, error[-2000:]
    assert all("step 5: 5 steps in a row had losses or gradients that are not finite" in line for line in told)


def test_processes_whose_launcher_is_killed_save_and_end(models: Any, rows: Path, tmp_path: Path) -> None:
    recipe = str(written(tmp_path / "recipe.yaml", models["bert"], rows, max_steps=3000, eval_strategy="no"))
    folder = tmp_path / "run"
    process = started("run", recipe, "--out", str(folder), "--processes", "2")
    log = folder / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count('"step"') > 20):
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while (folder / ".lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (folder / ".lock").exists(), "a run continues without its launcher"
    assert list((folder / "checkpoints").glob("0*"))
    assert json.loads(log.read_text().splitlines()[-1])["error"] == "Interrupted: stopped by SIGTERM"


# --- evaluation


JUDGE = """
import json, sys
import torch
torch.set_num_threads(1)
from hft_core.runs import assembly
from hft_core.batching import buckets
from hft_core.training import evaluation
from hft_core.device.machine import find_machine
from hft_core.recipe import recipe_file
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.resolve import resolve

evaluation.EVALUATION_ROWS = 3
given = json.load(open(sys.argv[1]))
torch.manual_seed(0)
machine = find_machine("fp32")
resolved = resolve(recipe_file.from_dict(given["recipe"]), Catalogue.discover())
material = assembly.assemble(resolved, host_data=given["data"], trust_remote_code=False)
found = {}
for task, examples in material.examples["dev"].items():
    said = evaluation.evaluate_task(material.model, task, examples, machine, seed=0)
    scores = evaluation.score_task(material.model, task, examples, machine, seed=0)
    found[task] = [len(examples), [str(each) for each in said.predictions], said.loss, scores]
if machine.group.is_main:
    print(json.dumps(found))
"""


def test_evaluation_counts_each_row_once_however_unevenly_the_processes_share_them(
    models: Any, toys: ModuleType, tmp_path: Path, in_two_processes: InTwo
) -> None:
    """Seven rows in batches of three, the chunks of long documents, and the candidates of queries."""
    rows = toys.rows(40)
    ranked = [
        {"query": row["label"], "document": row["text"], "label": int(row["fits"] == "yes"), "group": i // 3}
        for i, row in enumerate(rows[:39])
    ]
    asked = [
        {
            "question": f"what did the {row['text'].split()[1]} do",
            "context": " ".join([row["text"], row["other"]] * 6),
            "answers": {"text": [row["text"].split()[1]], "answer_start": [4]},
        }
        for row in rows
    ]
    data = {
        "topic": {"train": rows, "dev": rows[:7]},
        "order": {"train": ranked, "dev": ranked[:21]},
        "answer": {"train": asked, "dev": asked[:7]},
        "language": {"train": rows, "dev": rows[:7]},
    }
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {
            "topic": {"head": "classification"},
            "order": {"head": {"type": "ranking", "loss": "listwise", "group_by": "group"}},
            "answer": {"head": {"type": "span", "doc_stride": 8}, "max_length": 32},
            "language": {"head": "mlm"},
        },
        "stages": [{"max_steps": 1}],
    }
    (tmp_path / "given.json").write_text(json.dumps({"recipe": recipe, "data": data}))
    script = tmp_path / "evaluate.py"
    script.write_text(JUDGE)
    alone = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "given.json")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    (first, _), _ = in_two_processes(script, str(tmp_path / "given.json"))
    found = {1: json.loads(alone.stdout), 2: json.loads(first)}
    for task, (examples, said, loss, scores) in found[1].items():
        assert said == found[2][task][1], task
        assert loss == pytest.approx(found[2][task][2], abs=1e-6)
        assert scores == pytest.approx(found[2][task][3], abs=1e-6)
        assert examples == found[2][task][0]
    assert len(found[1]["topic"][1]) == 7
    assert len(found[1]["order"][1]) == 21
    assert found[1]["answer"][0] > 7, "long documents make several examples"
