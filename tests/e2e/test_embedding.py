"""hft inside another program: stages one at a time, a host's own rows and tools, threads, and what is left alone."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from accelerate import Accelerator
from datasets import Dataset
from rich.console import Console
from safetensors.torch import load_file

import hft_core
from hft_core import Catalogue, PluginError, RunError, UsageError, hookimpl
from hft_core.cli.progress import Bars, Lines
from hft_core.predict.prediction import evaluate, predict
from hft_core.recipe.schema import BackboneChoice, PluginChoice, Recipe, Stage, Task
from hft_plugins import backbones, combiners, heads, strategies

DIVERGES = {"strategy": "full", "combiner": None, "learning_rate": 1e30, "max_grad_norm": None}
PATIENCE = 60.0
"""Seconds after which a thread that should have ended hangs."""


def recipe(model: Path, seed: int = 0, **second: Any) -> dict[str, Any]:
    """Two stages with dropout, and a combiner that draws at random."""
    common = {"per_device_train_batch_size": 8, "num_train_epochs": 1}
    later = {"strategy": {"type": "lora", "r": 4, "lora_dropout": 0.2}, "combiner": "pcgrad", **second}
    return {
        "backbone": {"model": str(model), "dropout": 0.2},
        "tasks": {"topic": {"head": "classification"}, "language": {"head": "mlm"}},
        "stages": [
            {"name": "pretrain", "tasks": ["language"], "strategy": "full", **common},
            {"name": "finetune", **common, **later},
        ],
        "precision": "fp32",
        "seed": seed,
    }


@pytest.fixture
def rows(toys: ModuleType) -> dict[str, Any]:
    return {"topic": toys.rows(64), "language": [{"text": row["text"]} for row in toys.rows(48, seed=4)]}


class Diary:
    """What a run told, as far as two equal runs tell the same."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.ends: list[str] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.told.append((event.stage, event.step, dict(event.losses), event.gradient_norm))

    @hookimpl
    def hft_evaluation_finished(self, event: Any) -> None:
        self.told.append((event.stage, event.split, event.step, dict(event.scores)))

    @hookimpl
    def hft_run_finished(self) -> None:
        self.ends.append("finished")

    @hookimpl
    def hft_run_failed(self, event: Any) -> None:
        self.ends.append(f"failed: {event.error}")


def told_by(given: dict[str, Any], data: Any, *others: object, **settings: Any) -> list[Any]:
    """Everything that a run tells, which is the same bit for bit when it is computed in the same way."""
    diary = Diary()
    hft_core.run(given, data=data, observers=[diary, *others], **settings)
    assert len(diary.told) > 10
    return diary.told


def together(*functions: Callable[[], Any]) -> list[Any]:
    """The results of the functions, each run in a thread of its own at the same time."""
    results: dict[int, Any] = {}

    def run(number: int) -> None:
        try:
            results[number] = functions[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=[number], daemon=True) for number in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a run in a thread hangs"
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(functions))]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.relative_to(run)}:{name}": tensor
        for file in sorted((run / "model").rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def assert_equal_runs(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert len(first) > 10
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


# --- stages one at a time


def test_stages_run_one_at_a_time_are_the_run(models: Any, rows: Any, tmp_path: Path) -> None:
    given = recipe(models["bert"])
    whole = hft_core.run(given, data=rows, output=tmp_path / "whole")
    with hft_core.session(given, data=rows, output=tmp_path / "parts") as session:
        assert (session.left, session.done) == (("pretrain", "finetune"), ())
        first = session.run_stage()
        torch.rand(5)  # the host's own numbers between the stages are not the run's
        random.random()
        assert evaluate(session, "topic", rows["topic"])["accuracy"] > 0
        assert (session.left, session.done) == (("finetune",), (first,))
        session.run_stage()
        result = session.finish()
    assert result.final == whole.final
    assert [stage.history for stage in result.stages] == [stage.history for stage in whole.stages]
    assert session.result is result
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == sorted(
        path.name for path in (tmp_path / "parts").iterdir()
    )


def test_an_open_session_predicts_with_the_weights_as_they_are(models: Any, rows: Any, tmp_path: Path) -> None:
    asked = rows["topic"][:6]
    with hft_core.session(recipe(models["bert"]), data=rows, output=tmp_path / "run") as session:
        session.run_stage()
        before = predict(session, "topic", asked)
        session.run_stage()
        after = predict(session, "topic", asked)
        session.finish()
    saved = hft_core.open_run(tmp_path / "run", Catalogue.discover())
    reopened = predict(saved, "topic", pd.DataFrame(asked))
    assert [a["label"] for a in after] == [a["label"] for a in reopened]
    where = saved.machine
    assert where is not None
    predict(saved, "topic", asked)
    assert saved.machine is where  # measured once: the answers do not change with the machine's load
    for one, two, other in zip(after, reopened, before, strict=True):
        assert one["probabilities"] == pytest.approx(two["probabilities"], abs=1e-6)
        assert one["probabilities"] != other["probabilities"]


def test_what_comes_at_the_wrong_time_is_refused(models: Any, rows: Any) -> None:
    session = hft_core.session(recipe(models["bert"]), data=rows)
    with pytest.raises(UsageError, match=r"^stage 'pretrain' is still to be run"):
        session.finish()
    session.run_stage()
    session.run_stage()
    with pytest.raises(UsageError, match=r"^no stage is left"):
        session.run_stage()
    session.finish()
    with pytest.raises(UsageError, match=r"^the session is over"):
        session.finish()
    session.close()


def test_a_session_that_is_left_early_says_so_gives_its_folder_back_and_is_resumed(
    models: Any, rows: Any, tmp_path: Path
) -> None:
    given = {**recipe(models["bert"]), "output": {"save_strategy": "epoch"}}
    hft_core.run(given, data=rows, output=tmp_path / "whole")
    run, diary = tmp_path / "run", Diary()
    with hft_core.session(given, data=rows, output=run, observers=[diary]) as session:
        session.run_stage()
        with pytest.raises(UsageError, match="in use by another run"):
            hft_core.session(given, data=rows, output=run, resume=True)
    assert diary.ends == ["failed: the session was closed before its run was finished"]
    assert not (run / "results.json").exists()
    with pytest.raises(UsageError, match=r"^the session is over"):
        session.run_stage()

    with hft_core.session(given, data=rows, output=run, resume=True) as again:
        while again.left:
            again.run_stage()
        again.finish()
    assert_equal_runs(tmp_path / "whole", run)


def test_the_first_error_ends_a_session(models: Any, rows: Any) -> None:
    diary = Diary()
    given = recipe(models["bert"], **DIVERGES)
    session = hft_core.session(given, data=rows, observers=[diary])
    session.run_stage()
    with pytest.raises(RunError, match="stage 'finetune'"):
        session.run_stage()
    assert [end[:24] for end in diary.ends] == ["failed: stage 'finetune'"]
    with pytest.raises(UsageError, match=r"^the session is over"):
        session.run_stage()
    session.close()
    assert len(diary.ends) == 1

    with pytest.raises(ZeroDivisionError), hft_core.session(given, data=rows, observers=[diary]):
        1 / 0  # noqa: B018
    assert diary.ends[1:] == ["failed: division by zero"]


# --- recipes, rows and tools of the host


def test_a_recipe_built_in_code_is_the_one_in_plain_data(models: Any, rows: Any) -> None:
    built = Recipe(
        backbone=BackboneChoice(options={"model": str(models["bert"]), "dropout": 0.2}),
        tasks={
            "topic": Task(head=PluginChoice(type="classification")),
            "language": Task(head=PluginChoice(type="mlm")),
        },
        stages=(
            Stage(
                name="pretrain",
                tasks=("language",),
                strategy=PluginChoice(type="full"),
                per_device_train_batch_size=8,
                num_train_epochs=1,
            ),
            Stage(
                name="finetune",
                strategy=PluginChoice(type="lora", options={"r": 4, "lora_dropout": 0.2}),
                combiner=PluginChoice(type="pcgrad"),
                per_device_train_batch_size=8,
                num_train_epochs=1,
            ),
        ),
        precision="fp32",
    )
    plain = recipe(models["bert"])
    assert built == Recipe.model_validate(plain)
    mixed = {**plain, "stages": [Stage(**plain["stages"][0]), plain["stages"][1]]}
    assert told_by(mixed, rows) == told_by(plain, rows)  # type: ignore[arg-type]


@pytest.mark.slow
def test_rows_may_be_a_dataset_a_frame_or_dicts(models: Any, rows: Any) -> None:
    given = recipe(models["bert"])
    expected = told_by(given, rows)
    for kind in (Dataset.from_list, pd.DataFrame):
        before = {task: kind(part) for task, part in rows.items()}
        assert told_by(given, before) == expected
    split = {task: {"train": part, "validation": part[:8], "test": part[8:16]} for task, part in rows.items()}
    frames = {task: {name: pd.DataFrame(part) for name, part in parts.items()} for task, parts in split.items()}
    assert told_by(given, split) == told_by(given, frames)


def test_a_hosts_accelerator_says_where_and_nothing_else(models: Any, rows: Any) -> None:
    given = recipe(models["bert"])
    expected = told_by(given, rows)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    assert told_by(given, rows, accelerator=accelerator) == expected
    assert accelerator.gradient_accumulation_steps == 4


def test_progress_goes_to_the_hosts_own_console_and_logger(
    models: Any, rows: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    page = io.StringIO()
    bars = Bars(Console(file=page, width=100, force_terminal=True))
    lines: list[str] = []
    hft_core.run(recipe(models["bert"]), data=rows, observers=[bars, Lines(lines.append)])
    bars.close()
    assert "stage 2/2 finetune" in page.getvalue()
    assert [line for line in lines if line.startswith("stage 1/2 pretrain")]
    assert capfd.readouterr() == ("", "")


# --- an explicit catalogue


def test_a_catalogue_of_given_modules_is_enough_to_train_and_to_predict(models: Any, rows: Any, tmp_path: Path) -> None:
    given = recipe(models["bert"])
    catalogue = Catalogue.of(backbones, heads, strategies, combiners)
    assert told_by(given, rows, catalogue=catalogue, output=tmp_path / "run") == told_by(given, rows)
    saved = hft_core.open_run(tmp_path / "run", catalogue)
    assert predict(saved, "topic", rows["topic"][:2])
    with pytest.raises(PluginError, match="unknown strategy 'full'"):
        hft_core.run(given, data=rows, catalogue=Catalogue.of(backbones, heads, combiners))


@pytest.mark.slow
def test_a_catalogue_of_given_modules_never_looks_at_the_environment(models: Any, rows: Any, tmp_path: Path) -> None:
    """A distribution whose plugin leaves a mark when it is imported, and would observe every run."""
    info = tmp_path / "site" / "hft_spy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hft-spy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hft]\nspy = hft_spy\n")
    (tmp_path / "site" / "hft_spy.py").write_text(
        "import pathlib\nfrom hft_core import hookimpl\n"
        "pathlib.Path(__file__).with_name('mark').touch()\n"
        "@hookimpl\ndef hft_run_started(): pass\n"
    )
    host = textwrap.dedent(
        """
        import json, pathlib, sys
        import hft_core
        from hft_plugins import backbones, combiners, heads, strategies
        recipe, rows, mark = json.loads(sys.stdin.read())
        closed = hft_core.Catalogue.of(backbones, heads, strategies, combiners)
        hft_core.run(recipe, data=rows, catalogue=closed)
        assert not closed.observers and not pathlib.Path(mark).exists(), "the environment was looked at"
        assert any(e.name for e in hft_core.Catalogue.discover().entries) and pathlib.Path(mark).exists()
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", host],
        input=json.dumps([recipe(models["bert"]), rows, str(tmp_path / "site" / "mark")]),
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HFT_BLOCK": "hft-core,nonsense"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# --- two runs in one process


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "second",
    [
        {},
        {"strategy": "full", "combiner": "gradvac"},
        {"strategy": {"type": "task-lora", "r": 2}, "combiner": "famo"},
    ],
    ids=["lora-pcgrad", "full-gradvac", "task-lora-famo"],
)
def test_two_runs_in_two_threads_are_each_what_they_are_alone(models: Any, rows: Any, second: dict[str, Any]) -> None:
    one, two = recipe(models["bert"]), recipe(models["bert"], seed=5, **second)
    alone = [told_by(one, rows), told_by(two, rows)]
    assert alone[0] != alone[1]
    assert together(lambda: told_by(one, rows), lambda: told_by(two, rows)) == alone
    assert [told_by(one, rows), told_by(two, rows)] == alone


def test_runs_in_threads_that_save_and_predict_are_the_same_bit_for_bit(models: Any, rows: Any, tmp_path: Path) -> None:
    asked = rows["topic"][:6]

    def run(name: str, seed: int) -> list[dict[str, Any]]:
        hft_core.run(recipe(models["bert"], seed), data=rows, output=tmp_path / name)
        return predict(hft_core.open_run(tmp_path / name, Catalogue.discover()), "topic", asked)

    alone = [run("one", 0), run("two", 5)]
    assert together(lambda: run("one too", 0), lambda: run("two too", 5)) == alone
    assert_equal_runs(tmp_path / "one", tmp_path / "one too")
    assert_equal_runs(tmp_path / "two", tmp_path / "two too")


def test_predictions_in_another_thread_wait_and_change_nothing_in_a_run(models: Any, rows: Any, tmp_path: Path) -> None:
    given, asked = recipe(models["bert"]), rows["topic"][:4]
    hft_core.run(given, data=rows, output=tmp_path / "run")
    saved = hft_core.open_run(tmp_path / "run", Catalogue.discover())
    expected, answers = told_by(given, rows), predict(saved, "topic", asked)
    training = threading.Event()

    class Begun:
        @hookimpl
        def hft_step_finished(self) -> None:
            training.set()

    def ask() -> list[Any]:
        assert training.wait(PATIENCE)
        return [predict(saved, "topic", asked) for _ in range(3)]

    assert together(lambda: told_by(given, rows, Begun()), ask) == [expected, [answers] * 3]


@pytest.mark.slow
def test_an_observer_may_draw_random_numbers_and_even_run_hft(models: Any, rows: Any) -> None:
    given, inner = recipe(models["bert"]), recipe(models["bert"], seed=9, num_train_epochs=None, max_steps=2)
    expected, expected_inside = told_by(given, rows), told_by(inner, rows)
    inside: list[Any] = []

    class Busy:
        @hookimpl
        def hft_step_finished(self) -> None:
            torch.rand(3)
            np.random.rand(3)  # noqa: NPY002
            random.random()

        @hookimpl
        def hft_stage_finished(self) -> None:
            inside.append(told_by(inner, rows))

    assert told_by(given, rows, Busy()) == expected
    assert inside == [expected_inside] * 2
    other = recipe(models["bert"], seed=5)
    alone = told_by(other, rows)
    assert together(lambda: told_by(given, rows, Busy()), lambda: told_by(other, rows, Busy())) == [expected, alone]


# --- what a host finds as it was


def surroundings() -> dict[str, Any]:
    """What belongs to the process and not to a run."""
    loggers = [
        logging.getLogger(),
        *map(logging.getLogger, ("transformers", "peft", "accelerate", "datasets", "torch")),
    ]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],  # noqa: NPY002
        "python": random.getstate(),
        "loggers": [(logger.level, logger.propagate, logger.disabled, list(logger.handlers)) for logger in loggers],
        "transformers": (
            transformers.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
        ),
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "threads": {thread.name for thread in threading.enumerate()},
        "dtype": torch.get_default_dtype(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch threads": torch.get_num_threads(),
        "streams": (sys.stdout, sys.stderr, sys.excepthook),
        "register_parameter": torch.nn.Module.register_parameter,
    }


@pytest.mark.parametrize("way", ["finished", "failed", "left", "in threads"])
def test_a_host_finds_everything_as_it_was(way: str, models: Any, rows: Any, tmp_path: Path) -> None:
    given = recipe(models["bert"])
    hft_core.run(given, data=rows, output=tmp_path / "first")  # what libraries do when they are first imported is done
    asked = rows["topic"][:2]
    transformers.logging.set_verbosity_info()
    logging.getLogger("peft").setLevel(logging.DEBUG)
    try:
        random.seed(3)
        before = surroundings()
        if way == "finished":
            hft_core.run(given, data=rows, output=tmp_path / "run")
            predict(hft_core.open_run(tmp_path / "run", Catalogue.discover()), "topic", asked)
        elif way == "failed":
            with pytest.raises(RunError):
                hft_core.run(recipe(models["bert"], **DIVERGES), data=rows)
        elif way == "left":
            with hft_core.session(given, data=rows) as session:
                session.run_stage()
                assert surroundings() == before
        else:
            together(*(lambda seed=seed: told_by(recipe(models["bert"], seed), rows) for seed in range(3)))
        after = surroundings()
        assert [name for name in before if after[name] != before[name]] == []
    finally:
        transformers.logging.set_verbosity_warning()
        logging.getLogger("peft").setLevel(logging.NOTSET)


@pytest.mark.slow
def test_a_host_may_make_its_own_accelerator_after_a_run(models: Any, rows: Any) -> None:
    """In a process of its own, since Accelerate's state is the process's."""
    host = textwrap.dedent(
        """
        import json, sys
        import hft_core
        recipe, rows = json.loads(sys.stdin.read())
        hft_core.run(recipe, data=rows)
        from accelerate import Accelerator
        assert Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2).mixed_precision == "bf16"
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", host],
        input=json.dumps([recipe(models["bert"]), rows]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
