"""The controls of a study: what an honest comparison holds its arms against, made from the reference arm's recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hft_core.errors import UsageError, did_you_mean
from hft_core.studies.arms import Arm

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe

KINDS = {
    "single": "each task alone, all weights and LoRA",
    "sum": "the plain sum of the losses",
    "frozen": "the trunk as it came, heads alone",
    "same-size": "one LoRA with as many trainable parameters as the largest adapter",
    "no-pretraining": "no stage of language modelling before",
    "joint": "all tasks in one stage",
    "tf-idf": "TF-IDF and logistic regression, for text classes",
}
SIZED, WITHOUT_MODEL = "same-size", "tf-idf"
"""Made once other arms have run; computed without a run."""


def checked(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds that were asked for, in order. Raises `UsageError` for an unknown one."""
    given = list(kinds)
    for kind in given:
        if kind not in KINDS:
            raise UsageError(f"no control is called '{kind}'.{did_you_mean(kind, KINDS)}")
    return tuple(kind for kind in KINDS if kind in given)


def build(reference: Arm, arms: Sequence[Arm], kinds: Collection[str], catalogue: Catalogue) -> list[Arm]:
    """Build the controls of these kinds, without those that an arm of the study is already.

    `SIZED` and `WITHOUT_MODEL` are not recipes known beforehand, and are left out here.
    """
    known = {_text(arm.recipe) for arm in arms}
    names, found = {arm.name for arm in arms}, []
    for kind, name, data in _recipes(reference.recipe, catalogue):
        if kind not in kinds:
            continue
        recipe = _resolved(data, reference.recipe, catalogue)
        if _text(recipe) in known:
            continue
        known.add(_text(recipe))
        found.append(Arm(name if name not in names else f"control-{name}", recipe, control=KINDS[kind]))
    return found


def same_size(lora: Arm, rank: int, catalogue: Catalogue) -> Arm:
    """Build the LoRA control with a rank that gives it as many parameters as the largest adapter of the study."""
    data = lora.recipe.model_dump(mode="json")
    data["stages"][-1]["strategy"] = {"type": "lora", "options": {"r": rank, "lora_alpha": rank}}
    return Arm("lora-same-size", _resolved(data, lora.recipe, catalogue), control=KINDS[SIZED])


def judged(recipe: Recipe, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the tasks that arms are judged by: those with labels, or all where none has any."""
    labeled = tuple(task for task, told in recipe.tasks.items() if _needs_labels(told.head.type, catalogue))
    return labeled or tuple(recipe.tasks)


def _resolved(data: Mapping[str, Any], like: Recipe, catalogue: Catalogue) -> Recipe:
    from hft_core.recipe import recipe_file
    from hft_core.recipe.resolve import resolve

    recipe = recipe_file.from_dict(data, "control")
    recipe._folder = like.folder
    return resolve(recipe, catalogue).recipe


def _text(recipe: Recipe) -> str:
    from hft_core.recipe import recipe_file

    return recipe_file.dump(recipe)


def _recipes(recipe: Recipe, catalogue: Catalogue) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield kind, name and data of each control that is another recipe."""
    learned = {name for name, task in recipe.tasks.items() if _needs_labels(task.head.type, catalogue)}
    last = len(recipe.stages) - 1
    if len(learned) > 1 or len(recipe.tasks) > len(learned) > 0:
        for task in recipe.tasks:
            if task in learned and task in recipe.stages[last].tasks:
                for strategy in ("full", "lora"):
                    yield "single", f"{task}-alone-{strategy}", _alone(recipe, task, learned, strategy)
    if any(stage.combiner for stage in recipe.stages):
        data = recipe.model_dump(mode="json")
        for stage in data["stages"]:
            stage["combiner"] = None
        yield "sum", "sum", data
    data = recipe.model_dump(mode="json")
    data["stages"][last]["strategy"] = {"type": "frozen", "options": {}}
    if any(task in learned for task in recipe.stages[last].tasks):
        yield "frozen", "frozen-trunk", data
    pre = [i for i, stage in enumerate(recipe.stages) if not learned.intersection(stage.tasks)]
    if pre and len(pre) < len(recipe.stages):
        yield "no-pretraining", "no-pretraining", _keep_stages(recipe, [i for i in range(last + 1) if i not in pre])
    if last > 0:
        data = _keep_stages(recipe, [last])
        data["stages"][0]["tasks"] = list(recipe.tasks)
        data["tasks"] = recipe.model_dump(mode="json")["tasks"]
        yield "joint", "joint", data


def _needs_labels(head: str, catalogue: Catalogue) -> bool:
    return bool(getattr(catalogue.get("head", head).spec, "needs_labels", True))


def _alone(recipe: Recipe, task: str, learned: set[str], strategy: str) -> dict[str, Any]:
    """Return the recipe with one labeled task; stages of language modelling before it stay."""
    last = len(recipe.stages) - 1
    kept = [i for i, s in enumerate(recipe.stages) if i == last or task in s.tasks or not learned.intersection(s.tasks)]
    data = _keep_stages(recipe, kept)
    for stage in data["stages"]:
        if task in stage["tasks"]:
            stage |= {"tasks": [task], "combiner": None, "sampling": {}, "metric_for_best_model": None}
    data["stages"][-1]["strategy"] = {"type": strategy, "options": {}}
    return _only_used(data)


def _keep_stages(recipe: Recipe, kept: Sequence[int]) -> dict[str, Any]:
    data = recipe.model_dump(mode="json")
    data["stages"] = [data["stages"][i] for i in kept]
    return _only_used(data)


def _only_used(data: dict[str, Any]) -> dict[str, Any]:
    """Remove the tasks that no stage trains any more; a replay share ends with its task."""
    used = {name for stage in data["stages"] for name in stage["tasks"]}
    data["tasks"] = {name: task for name, task in data["tasks"].items() if name in used}
    return data
