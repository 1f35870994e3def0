"""Let every write of a two-stage run fail, once or for good, and cut the power at any moment.

Every end is an equal result, or one line and a run that is resumed to an equal result. The writes are those below the
run's folder, counted by a preloaded library (`fault_injection/shim.c`), as SQLite's tests do it. Each test takes a
sample of the positions; `--whole` takes all of them.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hft_core import check_run

pytestmark = pytest.mark.slow

HERE = Path(__file__).with_name("fault_injection")
ROOT = Path(__file__).parents[2]
SAMPLE = 6
"""Positions of each test, without `--whole`."""


def spec_of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hft_test_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


power_cut = spec_of("power_cut")


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int
    calls: int
    printed: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.printed.splitlines() if line.startswith("error:")]


class Faults:
    """Starts runs whose writes fail."""

    def __init__(self, folder: Path, shim: Path, recipe: Path) -> None:
        self.folder, self.recipe = folder, recipe
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins"), str(HERE.parent)]),
            "LD_PRELOAD": str(shim),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.trace = folder / "trace"
        self.trace.mkdir()
        whole = self.start(folder / "whole", trace=self.trace)
        assert whole.code == 0, whole.printed
        self.positions, self.wanted = whole.calls, digest(folder / "whole")

    def start(
        self,
        run: Path,
        number: int = 0,
        error: int = 0,
        *,
        forever: bool = False,
        trace: Path | None = None,
        unsynced: str = "",
    ) -> Ended:
        """Start or resume the run in the folder `run`; its write `number` fails, or from then on all. `unsynced`: the
        end of the path of what it does not sync."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        printed = run.with_suffix(".printed")
        printed.unlink(missing_ok=True)
        job = {
            "arguments": ["run", str(self.recipe), "--out", str(run), "--resume"],
            "printed": str(printed),
            "folder": str(run),
            "number": number,
            "error": error,
            "forever": forever,
            "trace": str(trace or ""),
            "unsynced": unsynced,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Ended(answer["code"], answer["calls"], printed.read_text())

    def check_the_end(self, run: Path, *, log: bool = True) -> None:
        """Check that the run in the folder `run` is finished, or can be resumed, with an equal result."""
        if not (run / "results.json").exists():
            ended = self.start(run)
            assert ended.code == 0, ended.printed[-3000:]
        assert check_run(run).problems == ()
        found = digest(run)
        differing = {name for name in self.wanted.keys() | found.keys() if found.get(name) != self.wanted.get(name)}
        assert differing - (set() if log else {"steps"}) == set()


def digest(run: Path) -> dict[str, str]:
    """The hash of every tensor file of a finished run, its scores, and the steps that it logged."""
    found = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*.safetensors"))
        if "checkpoints" not in path.parts
    }
    results = json.loads((run / "results.json").read_text())
    found["final"] = json.dumps(results["final"], sort_keys=True)
    found["history"] = json.dumps([stage["history"] for stage in results["stages"]], sort_keys=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found["steps"] = json.dumps([(line["stage"], line["step"], line["losses"]) for line in lines if "losses" in line])
    return found


@pytest.fixture(scope="module")
def faults(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler (cc), and LD_PRELOAD as Linux has it")
    folder = tmp_path_factory.mktemp("faults").resolve()
    shim = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(HERE / "shim.c"), "-ldl"], check=True)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in toys.rows(40)))
    stage = {"per_device_train_batch_size": 6, "eval_strategy": "steps", "eval_steps": 2}
    recipe = folder / "recipe.json"
    recipe.write_text(
        json.dumps(
            {
                "backbone": str(models["bert"]),
                "tasks": {
                    "topic": {"head": "classification", "data": str(rows)},
                    "language": {"head": "mlm", "data": str(rows)},
                },
                "stages": [
                    {**stage, "strategy": "full", "tasks": ["language"], "max_steps": 2},
                    {**stage, "strategy": {"type": "lora", "r": 4}, "combiner": "uncertainty", "max_steps": 3},
                ],
                "precision": "fp32",
                "output": {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1},
            }
        )
    )
    found = Faults(folder, shim, recipe)
    yield found
    assert found.process.stdin is not None
    found.process.stdin.close()
    found.process.wait(30)


def chosen(positions: int, config: pytest.Config, what: str) -> list[int]:
    """All positions, or a sample of them that is another one for each commit."""
    everything = range(1, positions + 1)
    if config.getoption("--whole"):
        return list(everything)
    seed = os.environ.get("HFT_FAULT_SEED") or config.getoption("--sample-seed") or "0"
    return sorted(random.Random(f"{seed} {what}").sample(everything, SAMPLE))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=lambda error: errno.errorcode[error])
@pytest.mark.parametrize("forever", [False, True], ids=["once", "for good"])
def test_a_write_that_fails_ends_in_one_line_or_an_equal_result(
    error: int, forever: bool, faults: Faults, pytestconfig: pytest.Config
) -> None:
    for number in chosen(faults.positions, pytestconfig, f"{error} {forever}"):
        run = faults.folder / f"{errno.errorcode[error]}-{number}-{'all' if forever else 'one'}"
        ended = faults.start(run, number, error, forever=forever)
        where = f"position {number} of {faults.positions}: {ended.printed[-2000:]}"
        assert "Traceback" not in ended.printed, where
        assert "unexpected" not in ended.printed, where
        assert (ended.code, len(ended.errors)) in ((0, 0), (1, 1), (2, 1)), where
        lost_log = "observer 'log' failed" in ended.printed
        faults.check_the_end(run, log=not lost_log)
        shutil.rmtree(run)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("names_kept", [False, True], ids=["all unsynced is lost", "names are kept"])
def test_a_run_goes_on_after_the_power_was_cut(names_kept: bool, faults: Faults, pytestconfig: pytest.Config) -> None:
    for number in chosen(faults.positions, pytestconfig, f"cut {names_kept}"):
        run = faults.folder / f"cut-{number}-{names_kept}"
        power_cut.rebuild(faults.trace, number, faults.folder / "whole", run, names_kept=names_kept)
        faults.check_the_end(run)
        shutil.rmtree(run)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("unsynced", "names_kept"),
    [
        ("/model/topic/adapter_model.safetensors", True),
        ("/model/topic", False),
    ],
)
def test_a_forgotten_sync_would_be_found(unsynced: str, names_kept: bool, faults: Faults) -> None:
    run = faults.folder / "forgetful"
    lost, kept = run.with_name("lost"), run.with_name("kept")
    trace = run.with_name("forgetful-trace")
    trace.mkdir()
    try:
        ended = faults.start(run, trace=trace, unsynced=unsynced)
        assert ended.code == 0, ended.printed
        power_cut.rebuild(trace, ended.calls, run, lost, names_kept=names_kept)
        power_cut.rebuild(faults.trace, faults.positions, faults.folder / "whole", kept, names_kept=names_kept)
        assert check_run(kept).problems == ()
        found = check_run(lost)
        assert found.finished
        assert any(f"/{problem.file}".startswith(unsynced) for problem in found.problems), found.problems
    finally:
        for folder in (run, lost, kept, trace):
            shutil.rmtree(folder, ignore_errors=True)
