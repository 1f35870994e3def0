"""Stop runs, resume them, and compare them bit for bit with uninterrupted ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import RunError, UsageError, hookimpl
from hft_core.runtime.run_folder import RunFolder
from hft_core.runtime.signals import Interrupted
from hft_core.training import checkpoint

TASKS = {
    "topic": {"head": "classification"},
    "score": {"head": {"type": "regression", "label": "score"}},
    "language": {"head": "mlm"},
}

CASES: dict[str, list[dict[str, Any]]] = {
    "full with a mixture that follows the scores": [
        {"strategy": "full", "sampling": {"adapt": 2.0, "patience": {"score": 1}}, "gradient_accumulation_steps": 2}
    ],
    "lora and uncertainty": [{"strategy": {"type": "lora", "r": 4, "lora_dropout": 0.1}, "combiner": "uncertainty"}],
    "a part for each task and a combiner of gradients": [
        {"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}, "combiner": "pcgrad"}
    ],
    "all weights and a combiner of their gradients": [{"strategy": "full", "combiner": "pcgrad"}],
    "two stages, and momenta of weights": [
        {"strategy": "full", "tasks": ["language"]},
        {"strategy": {"type": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1}, "combiner": "famo"},
    ],
    "a stage that continues with the parameters of the one before": [
        {"strategy": "task-bottleneck", "combiner": "gradnorm"},
        {"strategy": "adapter-fusion", "combiner": "dwa"},
    ],
}


def recipe(model: Path, stages: list[dict[str, Any]], **output: Any) -> dict[str, Any]:
    common = {
        "max_steps": 8,
        "per_device_train_batch_size": 6,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "early_stopping_patience": 5,
    }
    return {
        "backbone": str(model),
        "tasks": TASKS,
        "stages": [{**common, **stage} for stage in stages],
        "precision": "fp32",
        "output": {"logging_steps": 1, **output},
    }


def digest(folder: Path) -> dict[str, str]:
    """The hash of every tensor file of a finished run, and what it measured."""
    files = sorted((folder / "model").rglob("*.safetensors")) + sorted((folder / "combiners").glob("*"))
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    results = json.loads((folder / "results.json").read_text())
    found["final"] = json.dumps(results["final"], sort_keys=True)
    found["history"] = json.dumps([stage["history"] for stage in results["stages"]], sort_keys=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [
        (line["stage"], line["step"], line["losses"], line["weights"]) for line in lines if line["event"] == "step"
    ]
    found["steps"] = json.dumps(steps)
    return found


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_any_step_ends_as_one_never_stopped(
    case: str, models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]
) -> None:
    from hft_core.runtime import signals

    stages = CASES[case]
    data = dict.fromkeys(TASKS, toys.rows(60))
    chosen = recipe(models["bert"], stages, save_strategy="steps", save_steps=4)
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    wanted = digest(tmp_path / "whole")
    for stop in (1, 2, 3, 5, 7, 9, 12)[: 5 if len(stages) == 1 else 7]:
        folder = tmp_path / f"stopped-{stop}"
        with signals.listening(), pytest.raises(Interrupted):
            hft_core.run(chosen, output=folder, data=data, observers=[stop_after(stop)])
        assert not (folder / "results.json").exists()
        hft_core.run(chosen, output=folder, data=data, resume=True)
        found = digest(folder)
        assert {name for name in wanted if found.get(name) != wanted[name]} == set(), f"stopped after {stop} steps"
        assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "max_time"])
def test_a_run_stopped_by_another_signal_or_its_time_ends_as_one_never_stopped(
    name: str, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hft_core.runtime import signals, time_limit

    class Stop:
        @hookimpl
        def hft_step_finished(self, event: Any) -> None:
            if event.step == 3 and name == "max_time":
                monkeypatch.setattr(time_limit, "monotonic", lambda: time.monotonic() + 3600)
            elif event.step == 3:
                signal.raise_signal(getattr(signal, name))

    data = dict.fromkeys(TASKS, toys.rows(60))
    chosen = recipe(models["bert"], [{"strategy": {"type": "lora", "r": 4}}])
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    with signals.listening(), pytest.raises(Interrupted, match=f"stopped by {name}") as stopped:
        hft_core.run(chosen, output=tmp_path / "stopped", data=data, observers=[Stop()], max_time="30m")
    assert stopped.value.exit_code == (124 if name == "max_time" else 128 + getattr(signal, name))
    assert (tmp_path / "stopped" / "checkpoints" / "LATEST").read_text() == "0000-00000003\n"
    monkeypatch.undo()
    hft_core.resume(tmp_path / "stopped", data=data, max_time=3600)
    with pytest.raises(UsageError, match="is finished"):
        hft_core.resume(tmp_path / "stopped", data=data)
    with pytest.raises(UsageError, match="holds no run that had begun"):
        hft_core.resume(tmp_path)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


def test_a_run_stopped_while_the_combiner_measures_dev_losses_ends_as_an_uninterrupted_one(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement follows an applied step: resumed, the run must neither apply the step nor skip the losses."""
    from hft_core.runtime import signals
    from hft_core.training import combiner_feedback

    data = dict.fromkeys(TASKS, toys.rows(60))
    stage = {"strategy": "full", "combiner": {"type": "coba", "dev_every": 2, "warmup": 2}}
    chosen = recipe(models["bert"], [stage])
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    evaluate_task, calls = combiner_feedback.evaluate_task, []

    def stopped(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 5:  # the second task of the second measurement, after step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_task(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(combiner_feedback, "evaluate_task", stopped)
        with signals.listening(), pytest.raises(Interrupted):
            hft_core.run(chosen, output=tmp_path / "stopped", data=data)
    assert (tmp_path / "stopped" / "checkpoints" / "LATEST").read_text() == "0000-00000004\n"
    hft_core.run(chosen, output=tmp_path / "stopped", data=data, resume=True)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


# --- what is refused, and what is reported


@pytest.fixture
def stopped(
    models: Any, toys: ModuleType, tmp_path: Path, stop_after: Callable[[int], object]
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A recipe, its data, and the folder of a run of it that was stopped with two checkpoints."""
    from hft_core.runtime import signals

    chosen = recipe(models["bert"], [{"strategy": {"type": "lora", "r": 4}}], save_strategy="steps", save_steps=2)
    data = dict.fromkeys(TASKS, toys.rows(60))
    folder = tmp_path / "run"
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.run(chosen, output=folder, data=data, observers=[stop_after(5)])
    assert [path.name for path in sorted((folder / "checkpoints").glob("0*"))] == ["0000-00000004", "0000-00000005"]
    assert (folder / "checkpoints" / "LATEST").read_text() == "0000-00000005\n"
    return chosen, data, folder


def truncate(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def forget(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def lose(folder: Path) -> None:
    (folder / "random.safetensors").unlink()


def age(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(f'"format": {checkpoint.FORMAT}', '"format": 1'))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "optimizer.safetensors is not as it was written"),
        (flip, "weights.safetensors is not as it was written"),
        (forget, "its manifest cannot be read"),
        (lose, "random.safetensors is missing"),
        (age, f"it has format 1, and this hft reads format {checkpoint.FORMAT}"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    damage: Callable[[Path], None], told: str, stopped: tuple[dict[str, Any], dict[str, Any], Path], tmp_path: Path
) -> None:
    chosen, data, folder = stopped
    damage(folder / "checkpoints" / "0000-00000005")
    result = hft_core.run(chosen, output=folder, data=data, resume=True)
    assert any(told in warning for warning in result.warnings), result.warnings
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    assert digest(folder) == digest(tmp_path / "whole")


def unexpected(warnings: tuple[str, ...]) -> list[str]:
    """All but that a few steps taught nothing."""
    return [warning for warning in warnings if "ignores the text" not in warning and "texts" not in warning]


def test_what_a_write_left_behind_is_no_checkpoint(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    beside = folder / "checkpoints" / ".0000-00000007.0123abcd"
    shutil.copytree(folder / "checkpoints" / "0000-00000005", beside)
    result = hft_core.run(chosen, output=folder, data=data, resume=True)
    assert not unexpected(result.warnings)
    assert not beside.exists()


def test_a_run_whose_labels_have_another_order_is_not_resumed(
    stopped: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    """The texts are the same; only what each output of the head means is not."""
    chosen, data, folder = stopped
    first, *others = sorted({row["label"] for row in data["topic"]})
    renamed = [{**row, "label": f"z{first}" if row["label"] == first else row["label"]} for row in data["topic"]]
    with pytest.raises(UsageError, match=f"task 'topic': .*labels: .*{first}.* before, .*{others[-1]}.* now"):
        hft_core.run(chosen, output=folder, data={**data, "topic": renamed}, resume=True)


def test_where_no_checkpoint_is_whole_nothing_is_started_anew_in_silence(
    stopped: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    chosen, data, folder = stopped
    for path in (folder / "checkpoints").glob("0*"):
        flip(path)
    with pytest.raises(UsageError, match=r"no checkpoint in .* can be used .* remove that folder"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_another_recipe_is_not_taken_for_the_same_run(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    with pytest.raises(UsageError, match="another recipe"):
        hft_core.run({**chosen, "seed": 1}, output=folder, data=data, resume=True)


def test_other_data_is_not_taken_for_the_same_run(
    stopped: tuple[dict[str, Any], dict[str, Any], Path], toys: ModuleType
) -> None:
    chosen, data, folder = stopped
    with pytest.raises(UsageError, match=r"the rows of task 'score', train; .* changed since"):
        hft_core.run(chosen, output=folder, data={**data, "score": toys.rows(60, seed=5)}, resume=True)


def test_a_finished_run_has_nothing_to_resume(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    hft_core.run(chosen, output=folder, data=data, resume=True)
    with pytest.raises(UsageError, match="is finished"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_a_folder_in_use_is_not_touched(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    chosen, data, folder = stopped
    with RunFolder(folder).locked(), pytest.raises(UsageError, match="in use by another run"):
        hft_core.run(chosen, output=folder, data=data, resume=True)


def test_a_full_disk_ends_the_run_and_leaves_the_last_good_checkpoint(
    stopped: tuple[dict[str, Any], dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, data, folder = stopped

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hft_core.training.checkpoint.sync", full)
    with pytest.raises(RunError, match=r"No space left on device; the last good one is 0000-00000005"):
        hft_core.run(chosen, output=folder, data=data, resume=True)
    monkeypatch.undo()
    assert not list((folder / "checkpoints").glob(".0*"))
    hft_core.run(chosen, output=folder, data=data, resume=True)


def test_a_folder_that_has_become_read_only_ends_the_run_and_leaves_the_last_good_checkpoint(
    stopped: tuple[dict[str, Any], dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The system's answers are put in place of a mount: root may write everywhere."""
    chosen, data, folder = stopped

    def refused(path: Any, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    mkdir = Path.mkdir
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda path, *a, **o: (refused if path.name[:2] == ".0" else mkdir)(path, *a, **o))
        with pytest.raises(RunError, match=r"Read-only file system; the last good one is 0000-00000005"):
            hft_core.run(chosen, output=folder, data=data, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("os.open", refused)
        with pytest.raises(UsageError, match=rf"run folder '{folder}' cannot be written to: Read-only file system"):
            hft_core.run(chosen, output=folder, data=data, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"output folder '.*file/run' cannot be made: Not a directory"):
        hft_core.run(chosen, output=tmp_path / "file" / "run", data=data)
    hft_core.run(chosen, output=folder, data=data, resume=True)


# --- one checkpoint at every moment


def test_a_manifest_says_what_the_checkpoint_is_of(stopped: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    _, _, folder = stopped
    place = folder / "checkpoints" / "0000-00000005"
    manifest = json.loads((place / "manifest.json").read_text())
    files = manifest.pop("files")
    recipe_hash = hashlib.sha256((folder / "recipe.yaml").read_bytes()).hexdigest()
    assert manifest == {"format": checkpoint.FORMAT, "recipe": recipe_hash, "stage": 0, "step": 5, "world_size": 1}
    assert files.keys() == {path.name for path in place.iterdir()} - {"manifest.json"}
    for name, facts in files.items():
        content = (place / name).read_bytes()
        assert facts == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_step_that_is_saved_again_has_a_checkpoint_at_every_moment(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], object]
) -> None:
    """The signal comes after a step that was saved: it is saved again, with what was measured since, and the disk is
    full at the moment at which the new one takes the place of the old one."""
    from hft_core.runtime import signals

    stages = [{"strategy": "full", "eval_steps": 4}]
    chosen = recipe(models["bert"], stages, save_strategy="steps", save_steps=4, save_total_limit=1)
    data, folder = dict.fromkeys(TASKS, toys.rows(60)), tmp_path / "run"
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    rename, published = os.rename, []

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "0000-00000004":
            published.append(sorted(path.name for path in (folder / "checkpoints").glob("0*")))
            if len(published) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    with monkeypatch.context() as patch, signals.listening():
        patch.setattr(os, "rename", full)
        with pytest.raises(RunError, match="No space left on device; the last good one is 0000-00000004~"):
            hft_core.run(chosen, output=folder, data=data, observers=[stop_after(4)])
    assert published == [[], ["0000-00000004~"]]
    assert not unexpected(hft_core.run(chosen, output=folder, data=data, resume=True).warnings)
    assert digest(folder) == digest(tmp_path / "whole")


def test_a_damaged_checkpoint_is_not_counted_among_those_that_are_kept(
    stopped: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    """A power cut may leave a newest one that is damaged; what is saved after resuming from the one before it stays,
    however few are kept."""
    from hft_core.training.checkpoint import Checkpoints

    _, _, folder = stopped
    for path in (folder / "checkpoints").glob("0*"):
        shutil.copytree(path, folder / "few" / path.name)
    forget(folder / "few" / "0000-00000005")
    recipe_hash = json.loads((folder / "few" / "0000-00000004" / "manifest.json").read_text())["recipe"]
    few = Checkpoints(folder / "few", recipe=recipe_hash, limit=1)
    before = few.newest(lambda told: None)
    assert before is not None
    assert (before.path.name, before.step) == ("0000-00000004", 4)
    few.publish(1, before.state, {}, {})
    assert [path.name for path in (folder / "few").glob("0*")] == ["0000-00000004"]


def test_a_run_that_was_killed_after_its_results_were_written_is_finished_and_tidied_up(
    stopped: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    chosen, data, folder = stopped
    shutil.copytree(folder / "checkpoints", folder.parent / "checkpoints")
    hft_core.run(chosen, output=folder, data=data, resume=True)
    shutil.move(folder.parent / "checkpoints", folder / "checkpoints")
    with pytest.raises(UsageError, match="is finished"):
        hft_core.run(chosen, output=folder, data=data, resume=True)
    assert not (folder / "checkpoints").exists()
    assert (folder / "results.json").exists()


# --- what was measured, and what was not finite


def test_the_number_format_that_was_measured_is_kept(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], object]
) -> None:
    from hft_core.device import precision
    from hft_core.runtime import signals

    chosen = {**recipe(models["bert"], [{"strategy": "full"}]), "precision": "auto"}
    data, folder = dict.fromkeys(TASKS, toys.rows(60)), tmp_path / "run"
    measured = precision.Precision("bf16", "measured once", 12.0)
    monkeypatch.setattr(precision, "choose", lambda wanted, device: measured)
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.run(chosen, output=folder, data=data, observers=[stop_after(3)])
    assert "\nprecision: bf16\n" in (folder / "recipe.yaml").read_text(), "the choice is a part of the recipe"
    monkeypatch.setattr(precision, "choose", lambda wanted, device: pytest.fail("measured anew"))
    with pytest.raises(UsageError, match="has another recipe than the one given"):
        hft_core.run({**chosen, "precision": "fp32"}, output=folder, data=data, resume=True)
    result = hft_core.run(chosen, output=folder, data=data, resume=True)
    assert (result.precision, result.precision_reason) == ("bf16", "measured once")


def test_a_run_that_is_stopped_before_its_first_checkpoint_keeps_its_number_format(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hft_core.device import precision

    chosen = {**recipe(models["bert"], [{"strategy": "full"}]), "precision": "auto"}
    data, folder = dict.fromkeys(TASKS, toys.rows(60)), tmp_path / "run"
    choose = precision.choose
    monkeypatch.setattr(precision, "choose", lambda wanted, device: precision.Precision("bf16", "measured", 12.0))
    hft_core.session(chosen, output=folder, data=data).close()
    wanted: list[str] = []

    def chosen_again(name: str, device: Any) -> precision.Precision:
        wanted.append(name)
        return choose(name, device)

    monkeypatch.setattr(precision, "choose", chosen_again)
    hft_core.session(chosen, output=folder, data=data, resume=True).close()
    hft_core.session(folder / "recipe.yaml", data=data).close()
    assert wanted == ["bf16", "bf16"]


def test_too_many_steps_without_finite_losses_leave_the_last_good_checkpoint_intact(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hft_core.combiner import Combiner
    from hft_core.training.checkpoint import Checkpoints

    chosen = recipe(models["bert"], [{"strategy": "full", "max_steps": 20}], save_strategy="steps", save_steps=2)
    data, folder = dict.fromkeys(TASKS, toys.rows(60)), tmp_path / "run"
    forward, calls = Combiner.forward, []

    def poisoned(combiner: Combiner, losses: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return forward(combiner, losses, present) * (float("nan") if len(calls) > 7 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Combiner, "forward", poisoned)
        with pytest.raises(RunError, match=r"step 12: 5 steps in a row .*the gradient was not finite on topic rows \["):
            hft_core.run(chosen, output=folder, data=data)
    recipe_hash = hashlib.sha256((folder / "recipe.yaml").read_bytes()).hexdigest()
    at = Checkpoints(folder / "checkpoints", recipe=recipe_hash, limit=2).newest(pytest.fail)
    assert at is not None
    assert (at.step, at.state.loop.progress.skipped) == (
        11,
        5,
    )  # saved before the error, with the weights before the steps
    assert all(bool(torch.isfinite(tensor).all()) for tensor in at.tensors("weights").values())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in at.tensors("optimizer").values())
    assert hft_core.run(chosen, output=folder, data=data, resume=True).stages[0].skipped_steps == 5
