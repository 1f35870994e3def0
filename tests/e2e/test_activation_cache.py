"""A run with cached activations learns what a run without them learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import hft_core
from hft_core import hookimpl
from hft_core.acceleration import activation_cache
from hft_core.batching.batch import Batch
from hft_core.device.machine import find_machine
from hft_core.events import StageStarted, StepFinished
from hft_core.model.activation_store import Store
from hft_core.runs.stages import Stages
from hft_core.runtime import signals
from hft_core.runtime.signals import Interrupted

TASKS = {
    "topic": {"head": "classification"},
    "fits": {"head": {"type": "classification", "label": "fits"}},
    "score": {"head": {"type": "regression", "label": "score"}},
}
UPPER = r".*\.[23]\..*(query|value|q_proj|v_proj)"
STRATEGIES: dict[str, Any] = {
    "frozen": "frozen",
    "partial": {"type": "partial", "layers": 2},
    "lora in upper layers": {"type": "lora", "r": 4, "lora_dropout": 0.1, "target_modules": UPPER},
    "a lora for each task in upper layers": {"type": "task-lora", "r": 4, "target_modules": UPPER},
}
EPSILON = 1e-5
"""Of Adam: a key's bias has a gradient of exactly 0 but for rounding, which a smaller epsilon would blow up."""
DEPTHS = {"frozen": 4}
"""Frozen layers; 2 where nothing is said."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "activations"


class Watch:
    """What a run tells."""

    def __init__(self) -> None:
        self.started: list[StageStarted] = []
        self.losses: list[dict[str, float]] = []

    @hookimpl
    def hft_stage_started(self, event: StageStarted) -> None:
        self.started.append(event)

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        self.losses.append(dict(event.losses))


def recipe(model: Path, strategy: Any, **stage: Any) -> dict[str, Any]:
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "adam_epsilon": EPSILON,
        **stage,
    }
    return {"backbone": str(model), "tasks": TASKS, "stages": [{"strategy": strategy, **settings}]}


def trained(stages: Stages, watch: Watch, **kept: Any) -> tuple[dict[str, Tensor], Any]:
    """The weights at the end of the only stage, and its result."""
    result = stages.run(0, stages.material.resolved.stages[0], fold=False)
    return {name: tensor.clone() for name, tensor in stages.material.model.state_dict().items()}, result


def both(
    prepare: Callable[..., Stages], chosen: dict[str, Any], data: dict[str, Any], precision: str = "fp32"
) -> tuple[tuple[dict[str, Tensor], Any, Watch], ...]:
    """The same run, with what is frozen stored and with all computed in every pass."""
    found = []
    for cached in ("auto", "no"):
        watch = Watch()
        stage = {**chosen["stages"][0], "cache_activations": cached}
        stages = prepare({**chosen, "stages": [stage]}, data, watch)
        stages.machine = find_machine(precision)
        found.append((*trained(stages, watch), watch))
    return tuple(found)


def assert_equal(ours: Any, theirs: Any, tolerance: float) -> None:
    (weights, result, watch), (wanted, expected, other) = ours, theirs
    assert len(watch.losses) == len(other.losses) > 8
    for mine, plain in zip(watch.losses, other.losses, strict=True):
        assert mine == pytest.approx(plain, abs=tolerance)
    assert weights.keys() == wanted.keys()
    for name, tensor in weights.items():
        assert float((tensor.float() - wanted[name].float()).abs().max()) <= tolerance, name
    assert result.best_step == expected.best_step
    for mine, plain in zip(result.history, expected.history, strict=True):
        for task, scores in mine.scores.items():
            # A correlation of some ten rows moves further than the loss that they have.
            assert scores == pytest.approx(plain.scores[task], abs=5 * tolerance, rel=5 * tolerance)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_losses_weights_and_scores_are_those_of_a_run_without_a_store(
    name: str, strategy: str, deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    data = dict.fromkeys(TASKS, toys.rows(48))
    chosen = recipe(deep[name], STRATEGIES[strategy])
    stored, computed = both(prepare, chosen, data)
    assert [event.frozen_layers for event in stored[2].started] == [DEPTHS.get(strategy, 2)]
    assert "rows, " in stored[2].started[0].stored
    assert computed[2].started[0].stored == "nothing, as the recipe says"
    assert_equal(stored, computed, 2e-6)


def test_the_cache_is_read_in_all_passes_of_the_stage_and_in_none_after_it(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, reads = toys.rows(30), []
    stages = prepare(recipe(deep["bert"], "frozen", num_train_epochs=2), dict.fromkeys(TASKS, rows), Watch())
    put_into = Store.put_into

    def watched(store: Store, batch: Batch) -> Batch:
        reads.append(put_into(store, batch).cached is not None)
        return put_into(store, batch)

    monkeypatch.setattr(Store, "put_into", watched)
    stages.run(0, stages.material.resolved.stages[0], fold=False)
    during = len(reads)
    assert sum(reads) > 8
    stages.score("dev", TASKS)
    assert len(reads) > during
    assert not any(reads[during:])


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_losses_are_those_of_a_run_without_a_store_in_bfloat16(
    name: str, deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    """Of BERT, layers multiply in bfloat16 and end in norms that give float32."""
    data = dict.fromkeys(TASKS, toys.rows(48))
    stored, computed = both(prepare, recipe(deep[name], "frozen"), data, "bf16")
    assert "rows, " in stored[2].started[0].stored
    assert_equal(stored, computed, 1e-2)


def test_rows_that_are_masked_anew_in_each_pass_are_computed_beside_stored_ones(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    chosen = recipe(deep["bert"], STRATEGIES["partial"], per_device_train_batch_size=16)
    chosen["tasks"] = {"topic": TASKS["topic"], "language": {"head": "mlm"}}
    rows = toys.rows(48)
    stored, computed = both(prepare, chosen, {"topic": rows, "language": rows})
    assert "rows, " in stored[2].started[0].stored
    assert any(len(losses) == 2 for losses in stored[2].losses)
    assert_equal(stored, computed, 2e-6)


def test_upper_layers_that_are_computed_again_in_the_backward_pass_begin_with_what_is_stored(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    chosen = recipe(deep["bert"], STRATEGIES["partial"], gradient_checkpointing=True)
    stored, computed = both(prepare, chosen, dict.fromkeys(TASKS, toys.rows(30)))
    assert "rows, " in stored[2].started[0].stored
    assert_equal(stored, computed, 2e-6)


@pytest.mark.parametrize("combiner", ["pcgrad", {"type": "upgrad", "at": "representation"}])
def test_combiners_of_gradients_see_what_they_see_without_a_store(
    combiner: Any, deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    data = dict.fromkeys(TASKS, toys.rows(48))
    chosen = recipe(deep["bert"], STRATEGIES["partial"], combiner=combiner)
    stored, computed = both(prepare, chosen, data)
    assert "rows, " in stored[2].started[0].stored
    assert_equal(stored, computed, 1e-5)


# --- what is frozen


@pytest.mark.parametrize(
    ("strategy", "depth"),
    [
        ("full", 0),
        ("bitfit", 0),
        ("gradual-unfreezing", 0),
        ({"type": "lora", "r": 2}, 0),
        ({"type": "peft", "method": "PROMPT_TUNING", "num_virtual_tokens": 3}, 0),
        ({"type": "task-bottleneck"}, 0),
        ({"type": "partial", "layers": 3}, 1),
        ({"type": "partial", "layers": 4}, 0),
        ("frozen", 4),
    ],
    ids=str,
)
def test_layers_below_the_trainable_ones_are_in_evaluation_mode(
    strategy: Any, depth: int, deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    modes: list[list[bool]] = []

    class Modes:
        @hookimpl
        def hft_step_finished(self) -> None:
            modes.append([layer.training for layer in stages.material.model.backbone.layers])

    watch = Watch()
    chosen = recipe(deep["bert"], strategy, max_steps=2, num_train_epochs=None, head_warmup_steps=0)
    stages = prepare(chosen, dict.fromkeys(TASKS, toys.rows(20)), watch, Modes())
    trained(stages, watch)
    assert watch.started[0].frozen_layers == depth
    assert modes[-1] == [False] * depth + [True] * (4 - depth)


def test_dropout_is_off_in_frozen_embeddings_and_on_in_trainable_layers(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    chosen = recipe(deep["bert"], STRATEGIES["partial"], max_steps=1, num_train_epochs=None, head_warmup_steps=0)
    modes: list[tuple[bool, bool]] = []

    class Modes:
        @hookimpl
        def hft_step_finished(self) -> None:
            trunk: Any = stages.material.model.trunk
            modes.append((trunk.embeddings.dropout.training, trunk.encoder.layer[3].output.dropout.training))

    stages = prepare(chosen, dict.fromkeys(TASKS, toys.rows(20)), Modes())
    trained(stages, Watch())
    assert modes == [(False, True)]


# --- why nothing is stored


def told(stages: Stages, watch: Watch) -> str:
    trained(stages, watch)
    return watch.started[0].stored


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"cache_activations": "no"}, "nothing, as the recipe says"),
        ({"strategy": "full"}, "no layer below the trainable ones is frozen"),
        ({"num_train_epochs": 1}, "no row is seen more than once"),
        ({"cache_activations": "0.01 MB"}, "more than the 0.0 MB that may be used"),
    ],
)
def test_what_does_not_pay_is_not_stored_and_the_reason_is_told(
    stage: dict[str, Any],
    reason: str,
    deep: dict[str, Path],
    toys: ModuleType,
    prepare: Callable[..., Stages],
    cache: Path,
) -> None:
    watch = Watch()
    chosen = recipe(
        deep["bert"], stage.get("strategy", "frozen"), **{k: v for k, v in stage.items() if k != "strategy"}
    )
    stages = prepare(chosen, {task: {"train": toys.rows(20, seed)} for seed, task in enumerate(TASKS)}, watch)
    assert reason in told(stages, watch)
    assert not cache.exists()


def test_a_trunk_whose_rows_depend_on_those_beside_them_is_computed_in_every_pass(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    stages = prepare(recipe(deep["bert"], "frozen"), dict.fromkeys(TASKS, toys.rows(20)), watch)
    lowest = stages.material.model.backbone.layers[0]
    lowest.register_forward_hook(lambda layer, args, output: output + output.mean(dim=(0, 1)))
    assert "the hidden states of a row depend on those beside it" in told(stages, watch)


def test_an_encoder_decoder_is_computed_in_every_pass(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    stages = prepare(recipe(models["t5"], "frozen"), dict.fromkeys(TASKS, toys.rows(20)), watch)
    assert told(stages, watch) == "nothing: HfSeq2Seq cannot start a forward pass at a layer"


# --- what is kept


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if not path.name.startswith("."))


def test_a_run_with_another_head_reads_what_the_one_before_computed(
    deep: dict[str, Path],
    toys: ModuleType,
    prepare: Callable[..., Stages],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = toys.rows(30)
    for task in ("topic", "score"):
        chosen = recipe(deep["bert"], "frozen")
        chosen["tasks"] = {task: TASKS[task]}
        trained(prepare(chosen, {task: {"train": rows[:20], "dev": rows[20:]}}), Watch())
        assert len(entries(cache)) == 1
        monkeypatch.delattr(activation_cache.ActivationCache, "_fill", raising=False)  # it is not called again


def test_what_is_damaged_is_computed_again(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], cache: Path
) -> None:
    data = dict.fromkeys(TASKS, toys.rows(30))
    first, _ = trained(prepare(recipe(deep["bert"], "frozen"), data), Watch())
    (entry,) = entries(cache)
    whole = (entry / "hidden.bin").read_bytes()
    (entry / "hidden.bin").write_bytes(whole[:-100] + bytes(100))
    again, _ = trained(prepare(recipe(deep["bert"], "frozen"), data), Watch())
    assert (entry / "hidden.bin").read_bytes() == whole
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_other_weights_are_another_entry(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], cache: Path
) -> None:
    data = dict.fromkeys(TASKS, toys.rows(30))
    for change in (0.0, 1e-4):
        stages = prepare(recipe(deep["bert"], STRATEGIES["partial"]), data)
        with torch.no_grad():  # a word that the probe need not have
            stages.material.model.trunk.get_parameter("embeddings.word_embeddings.weight")[7, 3] += change
        trained(stages, Watch())
    assert len(entries(cache)) == 2


def test_a_cache_that_cannot_be_written_to_does_not_matter(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], cache: Path
) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    watch = Watch()
    stages = prepare(recipe(deep["bert"], "frozen"), dict.fromkeys(TASKS, toys.rows(30)), watch)
    _, result = trained(stages, watch)
    assert result.warnings == ()
    assert "rows, " in watch.started[0].stored


def test_a_full_disk_is_reported_and_the_run_continues(
    deep: dict[str, Path], toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(activation_cache, "_write", full)
    stages = prepare(recipe(deep["bert"], "frozen"), dict.fromkeys(TASKS, toys.rows(30)))
    _, result = trained(stages, Watch())
    (warning,) = result.warnings
    assert "could not be stored" in warning
    assert "No space left on device" in warning


# --- resume


def facts(folder: Path) -> tuple[dict[str, bytes], str]:
    weights = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("model/**/*.safetensors")}
    return weights, json.dumps(json.loads((folder / "results.json").read_text())["stages"][0]["history"])


@pytest.mark.parametrize("change", ["nothing", "the cache is lost", "the disk is full", "the disk was full"])
def test_a_resumed_run_caches_what_it_began_with_and_ends_as_an_uninterrupted_one(
    change: str,
    deep: dict[str, Path],
    toys: ModuleType,
    tmp_path: Path,
    cache: Path,
    stop_after: Callable[[int], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, data, watch = activation_cache.room, dict.fromkeys(TASKS, toys.rows(30)), Watch()
    if change == "the disk was full":
        monkeypatch.setattr(activation_cache, "room", lambda wanted: 0)
    chosen = {**recipe(deep["bert"], STRATEGIES["partial"]), "precision": "fp32"}
    hft_core.run(chosen, output=tmp_path / "whole", data=data)
    folder = tmp_path / "stopped"
    with signals.listening(), pytest.raises(Interrupted):
        hft_core.run(chosen, output=folder, data=data, observers=[stop_after(13)])
    if change == "the cache is lost":
        shutil.rmtree(cache)
    monkeypatch.setattr(activation_cache, "room", (lambda wanted: 0) if change == "the disk is full" else room)
    hft_core.run(chosen, output=folder, data=data, resume=True, observers=[watch])
    assert watch.started[0].stored.startswith("nothing: ") == (change == "the disk was full")
    assert facts(folder) == facts(tmp_path / "whole")
