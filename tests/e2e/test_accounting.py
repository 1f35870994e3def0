"""What a stage says that it cost, what `--profile` writes, and that neither changes what is learned."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import Catalogue
from hft_core.cli.run import cost_text, print_result, run_source
from hft_core.device import clock, flops
from hft_core.device.clock import PARTS, TRAINING
from hft_core.recipe import yaml_source
from hft_core.runs.profiler import STEPS, StepProfiler
from hft_core.runs.stages import Stages
from hft_core.runtime import signals

TASKS = {"topic": {"head": "classification"}, "score": {"head": "regression", "label": "score"}}


def recipe(model: Path, *stages: dict[str, Any], **settings: Any) -> dict[str, Any]:
    common = {"max_steps": 12, "per_device_train_batch_size": 8, "eval_strategy": "no"}
    given = [{**common, **stage} for stage in stages] or [common]
    return {"backbone": {"model": str(model)}, "tasks": TASKS, "stages": given, "precision": "fp32", **settings}


def rows(toys: ModuleType) -> dict[str, Any]:
    return {task: {"train": toys.rows(60), "dev": toys.rows(20, seed=1)} for task in TASKS}


def weights(stages: Stages) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in stages.material.model.state_dict().values()]


def test_results_say_what_a_stage_cost(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    given = recipe(models["bert"], {"eval_strategy": "epoch"})
    hft_core.run(given, data=rows(toys), output=tmp_path / "run")
    (stage,) = json.loads((tmp_path / "run/results.json").read_text())["stages"]
    assert (stage["precision"], stage["precision_reason"]) == ("fp32", "as the recipe says")
    assert set(stage["seconds"]) == {*PARTS, "total"}
    assert min(stage["seconds"][part] for part in (*TRAINING, "saving", "evaluation")) > 0
    assert stage["seconds"]["total"] == pytest.approx(sum(stage["seconds"][part] for part in PARTS))
    training = sum(stage["seconds"][part] for part in TRAINING)
    assert stage["rows_per_s"] == pytest.approx(stage["rows"] / training)
    assert stage["tokens_per_s"] == pytest.approx(stage["tokens"] / training)
    assert 0 < stage["gemm_share"] < 1


def test_the_share_is_that_of_the_operations_of_all_steps(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = []
    for every in (1, 5):
        monkeypatch.setattr(flops, "EVERY", every)
        stages = prepare(recipe(models["bert"], {"head_warmup_steps": 3}), rows(toys))
        result = stages.run(0, stages.material.resolved.stages[0], fold=False)
        training = sum(result.seconds[part] for part in TRAINING)
        works.append(result.gemm_share * training * stages.machine.precision.gflops * 1e9)
    assert works[1] == pytest.approx(works[0], rel=0.1)  # counted in some steps, in all of them


def test_counting_and_profiling_change_nothing_that_is_learned(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for every, observers in ((1000, []), (1, []), (1000, [StepProfiler(tmp_path / "profiled")])):
        monkeypatch.setattr(flops, "EVERY", every)
        stages = prepare(recipe(models["bert"], {"strategy": "lora"}), rows(toys), *observers)
        stages.run(0, stages.material.resolved.stages[0], fold=False)
        found.append(weights(stages))
    for other in found[1:]:
        assert all(torch.equal(left, right) for left, right in zip(found[0], other, strict=True))


def test_a_resumed_stage_counts_what_it_cost_before(
    models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: Callable[[int], object]
) -> None:
    ticks = itertools.count()  # every look at the clock takes a second
    monkeypatch.setattr(clock.time, "perf_counter", lambda: float(next(ticks)))
    found = []
    for name in ("whole", "stopped"):
        settings: Any = {"data": rows(toys), "output": tmp_path / name}
        if name == "stopped":
            with signals.listening(), pytest.raises(signals.Interrupted):
                hft_core.run(recipe(models["bert"]), **settings, observers=[stop_after(7)])
            settings["resume"] = True
        found.append(hft_core.run(recipe(models["bert"]), **settings).stages[0])
    whole, stopped = found
    assert (whole.rows, whole.tokens, whole.steps) == (stopped.rows, stopped.tokens, stopped.steps)
    for part in ("data", "forward", "backward", "optimizer"):
        assert stopped.seconds[part] == pytest.approx(whole.seconds[part], rel=0.01)
    assert stopped.gemm_share == pytest.approx(whole.gemm_share, rel=0.01)


def test_one_line_says_what_a_stage_cost(models: Any, toys: ModuleType) -> None:
    (stage,) = hft_core.run(recipe(models["bert"]), data=rows(toys)).stages
    assert stage.seconds["forward"] > 0.1 * stage.seconds["backward"]  # the trunk's pass is booked as what it is
    line = cost_text(stage)
    assert line.startswith(f"stage-1: {stage.rows_per_s:.0f} rows/s, {stage.tokens_per_s:.0f} tokens/s in fp32, ")
    assert "of peak matmul throughput" in line
    assert "\n" not in line


# --- the profile


def test_a_profile_is_a_trace_and_a_table(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    given = recipe(models["bert"], {"head_warmup_steps": 2})
    result = hft_core.run(given, data=rows(toys), observers=[StepProfiler(tmp_path)])
    assert not [warning for warning in result.warnings if "observer" in warning]
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["table.md", "trace.json"]
    trace = json.loads((tmp_path / "profile/trace.json").read_text())
    names = [event.get("name") for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
    assert names.count("hft: data") == names.count("hft: optimizer") == STEPS
    table = (tmp_path / "profile/table.md").read_text()
    for part in TRAINING:
        assert f"\n| {part} | " in table
    assert "\n| `aten::mm` | " in table or "\n| `aten::addmm` | " in table


def test_the_command_line_profiles_and_tells_what_each_stage_cost(
    models: Any, toys: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(60)))
    given = recipe(models["bert"])
    given["tasks"] = {"topic": {"head": "classification", "data": str(tmp_path / "rows.jsonl")}}
    folder = tmp_path / "run"
    result = run_source(yaml_source.Source.of(given, "test", tmp_path), Catalogue.discover(), folder, profile=True)
    assert (folder / "profile/trace.json").exists()
    assert (folder / "profile/table.md").exists()
    print_result(result)
    assert cost_text(result.stages[0]) in capsys.readouterr().out
    with pytest.raises(hft_core.UsageError, match=r"holds .*profile"):
        hft_core.run(given, output=folder)


def test_of_several_stages_each_has_its_profile(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    given = recipe(models["bert"], {"name": "one", "max_steps": 3}, {"name": "two", "eval_strategy": "epoch"})
    result = hft_core.run(given, data=rows(toys), observers=[StepProfiler(tmp_path)])
    assert not [warning for warning in result.warnings if "observer" in warning]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == [f"profile/{stage}/{name}" for stage in ("1-one", "2-two") for name in ("table.md", "trace.json")]


# --- what is computed otherwise, and learned alike


@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_gradient_checkpointing_equals_training_without_it(
    strategy: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    found, calls = [], []
    for on in (False, True):
        stages = prepare(recipe(models["bert"], {"strategy": strategy, "gradient_checkpointing": on}), rows(toys))
        layer = stages.material.model.backbone.layers[0]
        calls.append(0)
        (inner,) = [part for name, part in layer.named_modules() if name == "attention.self"]
        inner.register_forward_hook(lambda *_: calls.__setitem__(-1, calls[-1] + 1))
        stages.run(0, stages.material.resolved.stages[0], fold=False)
        found.append(weights(stages))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))
    assert calls[1] > calls[0]


def test_gradient_checkpointing_leaves_the_frozen_layers_out_of_the_backward_pass_and_ends_with_its_stage(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    upper = {"strategy": {"type": "partial", "layers": 1}, "gradient_checkpointing": True, "max_steps": 2}
    stages = prepare(recipe(models["bert"], upper, {"max_steps": 2}), rows(toys))
    asked: list[bool] = []
    embeddings = stages.material.model.trunk.embeddings
    embeddings.register_forward_hook(lambda _, __, output: asked.append(output.requires_grad))
    stages.run(0, stages.material.resolved.stages[0], fold=True)
    assert True not in asked
    stages.run(1, stages.material.resolved.stages[1], fold=False)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in stages.material.model.trunk.modules())


def test_gradient_checkpointing_is_refused_where_it_cannot_be(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    given = recipe(
        models["gpt2"], {"strategy": {"type": "prefix", "num_virtual_tokens": 4}, "gradient_checkpointing": True}
    )
    with pytest.raises(
        hft_core.RecipeError, match=r"stage 'stage-1': gradient_checkpointing is true, and its strategy"
    ):
        hft_core.run(given, data=rows(toys))
    stages = prepare(recipe(models["bert"], {"gradient_checkpointing": True}), rows(toys))
    type(stages.material.model.trunk).supports_gradient_checkpointing = False
    try:
        with pytest.raises(hft_core.RecipeError, match=r"the trunk \(BertModel\) has none"):
            stages.run(0, stages.material.resolved.stages[0], fold=False)
    finally:
        type(stages.material.model.trunk).supports_gradient_checkpointing = True


def test_bfloat16_ends_where_float32_does(models: Any, toys: ModuleType) -> None:
    scores = {}
    for precision in ("fp32", "bf16"):
        given = recipe(models["bert"], {"max_steps": 150, "learning_rate": 0.003}, precision=precision)
        scores[precision] = hft_core.run(given, data=rows(toys)).final["dev"]
    # 20 dev rows: one of them is 0.05; the error of a score is about that of the labels' own noise, 0.1.
    assert abs(scores["bf16"]["topic"]["accuracy"] - scores["fp32"]["topic"]["accuracy"]) <= 0.1
    assert scores["fp32"]["topic"]["accuracy"] > 0.6
    assert abs(scores["bf16"]["score"]["mae"] - scores["fp32"]["score"]["mae"]) <= 0.1
