"""Merged weights are those of the published formulas, and a merged run is an ordinary one with the tasks' own heads."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hft_core
from hft_core import Catalogue, HftError, UsageError
from hft_core.cli.app import main
from hft_core.predict import prediction
from hft_core.predict.saved_run import open_run
from hft_core.studies import merge_weights


def trunks() -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    random = torch.Generator().manual_seed(0)
    base = {"weight": torch.randn(40, 5, generator=random), "ids": torch.arange(4)}
    return base, [{**base, "weight": base["weight"] + torch.randn(40, 5, generator=random)} for _ in range(3)]


def changes(name: str, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a method makes of three random changes `[3, 40, 5]`, and the changes."""
    base, changed = trunks()
    merged = merge_weights.merged(base, changed, merge_weights.method_of(name, 3, **options))
    assert torch.equal(merged["ids"], base["ids"])
    return merged["weight"] - base["weight"], torch.stack([state["weight"] - base["weight"] for state in changed])


def method(name: str, scale: float | None = None, density: float | None = None) -> dict[str, Any]:
    return {"name": name, "scale": scale, "density": density}


def test_linear_and_task_arithmetic_are_mean_and_scaled_sum() -> None:
    found, given = changes(**method("linear"))
    assert found.numpy() == pytest.approx(given.mean(dim=0).numpy(), abs=1e-5)
    found, given = changes(**method("task-arithmetic", scale=0.7))
    assert found.numpy() == pytest.approx(0.7 * given.sum(dim=0).numpy(), abs=1e-5)


def test_ties_trims_elects_a_sign_and_takes_the_mean_of_those_that_have_it() -> None:
    found, given = changes(**method("ties", density=0.5))
    kept = torch.zeros_like(given)
    for one, out in zip(given, kept, strict=True):
        largest = one.abs().flatten().topk(100).indices
        out.flatten()[largest] = one.flatten()[largest]
    sign = torch.where(kept.sum(dim=0) >= 0, 1.0, -1.0)
    agreeing = kept * (kept.sign() == sign)
    wanted = agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp(min=1)
    assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


def test_dare_keeps_a_random_share_scaled_up_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found, given = changes(**method("dare", scale=1.0, density=0.5))
    assert torch.equal(torch.get_rng_state(), before)
    ways = torch.stack([sum(2 * given[i] * bool(mask & 2**i) for i in range(3)) for mask in range(8)])  # type: ignore[misc]
    assert (ways - found).abs().min(dim=0).values.max() < 1e-4  # each weight: a subset of the changes, doubled
    assert torch.equal(found, changes(**method("dare", scale=1.0, density=0.5))[0])
    assert 0.3 < float((found == 0).float().mean()) * 4 < 0.8  # all three are dropped in an eighth of the weights


def test_other_shapes_and_options_of_other_methods_are_refused() -> None:
    base, changed = trunks()
    changed[1]["weight"] = torch.zeros(41, 5)
    with pytest.raises(UsageError, match=r"'weight' is \(40, 5\) in the base model and \(41, 5\) in a run"):
        merge_weights.merged(base, changed, merge_weights.method_of("linear", 3, None, None))
    with pytest.raises(UsageError, match="--density is for ties and dare"):
        merge_weights.method_of("linear", 3, None, 0.5)
    with pytest.raises(UsageError, match="--scale is not for linear"):
        merge_weights.method_of("linear", 3, 0.5, None)


@pytest.fixture(scope="module")
def runs(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one base model: `lora` changes the trunk, `frozen` does not, and has another seed."""
    folder = tmp_path_factory.mktemp("merge")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(120)))
    data = str(folder / "rows.jsonl")
    tasks = {
        "lora": {"topic": {"head": "classification", "data": data, "label": "label"}},
        "frozen": {"score": {"head": "regression", "data": data, "label": "score"}},
    }
    stage = {"max_steps": 25, "learning_rate": 3e-3, "head_warmup_steps": 0}
    for seed, (name, task) in enumerate(tasks.items()):
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": task,
            "stages": [{**stage, "strategy": name}],
            "precision": "fp32",
            "seed": seed,
        }
        hft_core.run(recipe, output=folder / name)
    return {name: folder / name for name in tasks}


def test_a_merged_run_is_an_ordinary_one_and_scores_as_told(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    words = ["merge", *map(str, runs.values()), "--out", str(out), "--method", "task-arithmetic", "--scale", "1"]
    assert main([*words, "--tolerance", "1000", "--json"]) == 0
    told = {score["task"]: score for score in json.loads(capsys.readouterr().out)["scores"]}
    saved = open_run(out, Catalogue.discover())
    assert hft_core.check_run(out).problems == ()
    own = open_run(runs["lora"], Catalogue.discover())
    own.model.fold_strategy()
    for name, tensor in own.model.trunk.state_dict().items():  # the other run has no changes to add
        assert torch.allclose(saved.model.trunk.state_dict()[name], tensor, atol=1e-6), name
    assert told["topic"]["merged"] == pytest.approx(told["topic"]["own"])
    again = prediction.evaluate_recipe_data(saved, ["topic", "score"])["test"].scores
    for task, score in told.items():
        results = json.loads((runs["lora" if task == "topic" else "frozen"] / "results.json").read_text())
        assert score["own"] == pytest.approx(results["final"]["test"][task][score["metric"]], abs=1e-4)
        assert again[task][score["metric"]] == pytest.approx(score["merged"], abs=1e-4)  # on the same rows
    assert "merged from lora, frozen (task-arithmetic, scale 1)" in (out / "README.md").read_text()


def test_a_score_that_falls_is_an_exit_code_and_the_run_is_kept(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both"
    scale = ["--method", "task-arithmetic", "--scale", "30"]  # far beyond what was trained
    assert main(["merge", *map(str, runs.values()), "--out", str(out), *scale, "--tolerance", "0.01"]) == 1
    said = capsys.readouterr()
    assert "got worse by more than --tolerance 0.01" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "own run" in said.out
    assert (out / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lora"], "only 1 run is given, expected two or more"),
        (["lora", "lora"], "task 'topic' is in "),
        (["lora", "frozen", "--method", "tie"], "there is no method 'tie'. Did you mean 'ties'?"),
    ],
)
def test_what_cannot_be_merged_is_one_line(
    words: list[str], said: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *[str(runs.get(word, word)) for word in words], "--out", str(tmp_path / "new")]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_runs_of_another_base_model_are_refused(
    runs: dict[str, Path], models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    other = {
        "backbone": {"model": str(models["roberta"])},
        "tasks": {"topic": {"head": "classification", "data": str(runs["lora"].parent / "rows.jsonl")}},
        "stages": [{"max_steps": 1, "strategy": "frozen"}],
        "precision": "fp32",
    }
    hft_core.run(other, output=tmp_path / "other")
    from hft_core.studies.merge import merge

    chosen = merge_weights.method_of("linear", 2, None, None)
    with pytest.raises(HftError, match="began with other weights than the base model of"):
        merge([runs["frozen"], tmp_path / "other"], tmp_path / "new", chosen, Catalogue.discover())


@pytest.fixture(scope="module")
def alike(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the same task with the same splits: a good one, one by LoRA at another rate, one that learned
    nothing."""
    folder = tmp_path_factory.mktemp("soup")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(150)))
    for seed, (name, rate) in enumerate({"good": 3e-3, "other": 2e-3, "none": 1e-9}.items()):
        data = {"files": str(folder / "rows.jsonl"), "split": {"seed": 7}}
        task = {"head": "classification", "data": data}
        stage = {"max_steps": 40, "learning_rate": rate, "head_learning_rate": rate, "head_warmup_steps": 0}
        recipe = {
            "backbone": {"model": str(models["bert"])},
            "tasks": {"topic": task},
            "stages": [{**stage, "strategy": "lora" if name == "other" else "full"}],
            "precision": "fp32",
            "seed": seed,
        }
        hft_core.run(recipe, output=folder / name)
    return {name: folder / name for name in ("none", "other", "good")}


def test_a_soup_is_the_mean_and_a_greedy_one_keeps_what_does_not_harm(
    alike: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", *map(str, alike.values()), "--tolerance", "1", "--json"]
    assert main([*words, "--method", "soup", "--out", str(tmp_path / "all")]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "soup of 3 of 3 runs"
    own = [open_run(path, Catalogue.discover()) for path in alike.values()]
    for run in own:
        if run.model.strategy.adapter:
            run.model.fold_strategy()
    mixed = open_run(tmp_path / "all", Catalogue.discover()).model.state_dict()
    states = [run.model.state_dict() for run in own]
    for name, tensor in mixed.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.stack([state[name] for state in states]).mean(dim=0), atol=1e-6), name
    assert main([*words, "--method", "greedy-soup", "--out", str(tmp_path / "greedy")]) == 0
    told = json.loads(capsys.readouterr().out)
    (score,) = told["scores"]
    assert score["run"] == "good" and "of 3 runs" in told["method"]
    dev = [prediction.evaluate_recipe_data(run, ["topic"])["dev"].scores["topic"]["accuracy"] for run in own]
    greedy = open_run(tmp_path / "greedy", Catalogue.discover())
    assert prediction.evaluate_recipe_data(greedy, ["topic"])["dev"].scores["topic"]["accuracy"] >= max(dev)


def test_a_soup_of_runs_that_are_not_alike_is_refused(
    alike: dict[str, Path], runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", "--method", "soup", "--out", str(tmp_path / "s"), str(alike["good"])]
    for others, said in (
        ([str(runs["frozen"])], "a soup is of runs of the same tasks"),
        ([str(runs["lora"])], "other dev rows than"),
        ([str(alike["other"]), "--scale", "1"], "--scale and --density are not for 'soup'"),
    ):
        assert main([*words, *others]) == 2
        assert said in capsys.readouterr().err
