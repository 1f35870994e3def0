"""Every head with every strategy under three combiners: refused with a reason before training, or trained, saved and
opened with equal predictions."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hft_core.data.examples import Examples
from hft_core.device.machine import Machine, find_machine
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.observers import Observers
from hft_core.predict import saved_run
from hft_core.recipe import recipe_file
from hft_core.recipe.batch_size import with_batch_sizes
from hft_core.recipe.resolve import Resolved
from hft_core.runs import assembly, model_folders
from hft_core.runs.stages import Stages
from hft_core.runtime.files import write_json
from hft_core.runtime.run_folder import RunFolder
from hft_core.training.evaluation import TaskEvaluation, evaluate_task

COMBINERS = ("sum", "uncertainty", "pcgrad")
TOLERANCE = 1e-4


def cross(resolved: Resolved, data: dict[str, Any], folder: Path) -> None:
    """Run the recipe, save it, open it, and compare what the two models say about the dev rows."""
    torch.manual_seed(resolved.recipe.seed)
    resolved = with_batch_sizes(resolved, 1)
    machine, told = here(), Observers([], pytest.fail)
    run = RunFolder(folder)
    stages = Stages(assembly.assemble(resolved, host_data=data, trust_remote_code=False), machine, told, run)
    for index, stage in enumerate(resolved.stages):
        result = stages.run(index, stage, fold=resolved.folds_after(index))
        assert result.steps == CROSSING.STEPS
        assert result.skipped_steps == 0
    trained, examples = stages.material.model, stages.material.examples["dev"]
    model_folders.save_model(run.model, trained, trunk_changed=stages.trunk_changed)
    run.write_recipe(recipe_file.dump(resolved.recipe))
    write_json(run.results, {"plugins": resolved.providers()})
    opened = saved_run.open_run(folder, CROSSING.catalogue()).model
    for task, part in examples.items():
        before, after = evaluated(trained, task, part, machine), evaluated(opened, task, part, machine)
        assert math.isfinite(before.loss), task
        assert after.loss == pytest.approx(before.loss, abs=TOLERANCE), task
        assert after.predictions == close_to(before.predictions), task


@cache
def here() -> Machine:
    """Found once: finding it measures number formats."""
    return find_machine("fp32")


def evaluated(model: HybridModel, task: str, examples: Examples, machine: Machine) -> TaskEvaluation:
    found = evaluate_task(model, task, examples, machine, seed=0)
    if model.head(task).predicts_when_scored:
        return found
    again = evaluate_task(model, task, examples, machine, seed=0, with_loss=False)
    return replace(found, predictions=again.predictions)


def close_to(value: Any) -> Any:
    """Nested predictions, equal up to `TOLERANCE` where they are numbers."""
    if isinstance(value, dict):
        return {key: close_to(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [close_to(item) for item in value]
    return pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value


def load(name: str, path: Path) -> ModuleType:
    """A module of the repository that is in no package."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


HERE = Path(__file__).parent
CROSSING = load("hft_crossing", HERE / "crossing.py")
PAGE = load("hft_combinations_page", HERE.parents[1] / "docs" / "reference" / "combinations_page.py")


@pytest.mark.slow
@pytest.mark.sampled(12)
@pytest.mark.parametrize("strategy", CROSSING.names("strategy"))
@pytest.mark.parametrize("head", CROSSING.names("head"))
def test_a_head_and_a_strategy_work_under_three_combiners_or_are_refused_with_a_reason(
    head: str, strategy: str, tmp_path: Path
) -> None:
    cell = CROSSING.cell(head, strategy)
    if not cell.trunk:
        assert [trunk for trunk, _ in cell.reasons] == list(CROSSING.TRUNKS)
        assert all(reason and "\n" not in reason for _, reason in cell.reasons)
        return
    for combiner in COMBINERS:
        recipe = CROSSING.resolved(head, strategy, combiner, cell.trunk, cell.after)
        cross(recipe, CROSSING.host_data(head), tmp_path / combiner)


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", CROSSING.names("strategy"))
def test_the_page_says_which_heads_take_a_strategy_and_why_others_do_not(strategy: str) -> None:
    told = PAGE.reasons_on_page(PAGE.PAGE.read_text(encoding="utf-8").partition(PAGE.STRATEGIES)[2], strategy)
    found = {head: PAGE.reason(head, CROSSING.cell(head, strategy)) for head in CROSSING.names("head")}
    assert told == found, "run: python docs/reference/combinations_page.py"


@pytest.mark.slow
@pytest.mark.sampled(4)
@pytest.mark.parametrize("head", CROSSING.names("head"))
def test_the_page_says_on_which_trunks_a_head_works(head: str) -> None:
    told = PAGE.reasons_on_page(PAGE.PAGE.read_text(encoding="utf-8").partition(PAGE.STRATEGIES)[0], head)
    found = {trunk: PAGE.shown(CROSSING.refusal(head, "", trunk)) for trunk in CROSSING.TRUNKS}
    assert told == found, "run: python docs/reference/combinations_page.py"


def test_the_page_has_every_head_and_strategy() -> None:
    text = PAGE.PAGE.read_text(encoding="utf-8")
    missing = [name for seam in ("head", "strategy") for name in CROSSING.names(seam) if f"`{name}`" not in text]
    assert not missing, "run: python docs/reference/combinations_page.py"
