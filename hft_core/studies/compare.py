"""Compare arms over seeds: run what is missing, and judge all arms against the reference."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import UsageError
from hft_core.launcher import Launcher
from hft_core.runtime import locks
from hft_core.runtime.files import write_json, write_text
from hft_core.runtime.run_folder import RESULTS_FILE
from hft_core.studies import arms as arm_module
from hft_core.studies import controls, evidence, jobs, launchers, tables, tuning
from hft_core.studies.arms import Arm, Request
from hft_core.studies.jobs import Job, JobRunner, Say
from hft_core.studies.summary import Summary, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hft_core.plugins.catalogue import Catalogue

STUDY_FILE, PLAN_FILE, TABLES_FILE, RECOMMENDED_FILE = "study.json", "plan.json", "README.md", "recommended.yaml"
RECIPES, RUNS, LOGS, SHARED, LOCK_FILE = "recipes", "runs", "logs", "shared", ".lock"
SEEDS = 5
ADAPTER_SHARE = 0.5
"""Trainable share of the trunk below which a strategy counts as an adapter."""


def compare(
    recipe: str | Path | None = None,
    *,
    output: str | Path,
    arms: Mapping[str, Mapping[str, Any]] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    against: str = "",
    seeds: int | Sequence[int] | None = None,
    controls: Sequence[str] | None = None,
    tune: Mapping[str, int] | None = None,
    slots: int | None = None,
    launcher: str | None = None,
    resume: bool = False,
    catalogue: Catalogue | None = None,
) -> Summary:
    """Train arms of a recipe with several seeds, and judge them against one of them.

    `recipe`: the path of a recipe file, or of a `compare.yaml`. `arms`: overrides by key path, by the name of the arm;
    `vary`: values by key path, of which all combinations are arms. `against`: the reference, by default the first arm.
    `seeds`: how many, or which; by default those of the `compare.yaml`, or five. `controls`: kinds of
    controls, by default all that apply. `tune`: `{"learning_rate": N}` gives each arm N tries of its learning rate.
    `slots`: runs at a time. `launcher`: where they are computed, as `NAME,OPTION=VALUE`; they read the installed
    plugins. `resume`: resume the study in `output`, by the launcher that it was begun with unless another is named.

    Raises `UsageError` (and its kinds), and `HftError` where every run fails.
    """
    from hft_core.plugins.catalogue import Catalogue as Plugins

    path = None if recipe is None else Path(recipe)
    assignments = {name: [f"{key}={json.dumps(v)}" for key, v in o.items()] for name, o in (arms or {}).items()}
    axes = [f"{key}={','.join(json.dumps(value) for value in values)}" for key, values in (vary or {}).items()]
    kinds = None if controls is None else tuple(controls)
    many = None if seeds is None else arm_module.seeds_of(seeds if isinstance(seeds, int) else list(seeds), "seeds")
    tries = arm_module.tries_of(",".join(f"{key}={count}" for key, count in tune.items())) if tune else None
    asked = request(path, assignments | arm_module.vary(axes), against, many, kinds, tries)
    plugins = catalogue or Plugins.discover()
    return study(asked, Path(output), plugins, slots=slots, resume=resume, launcher=launcher)


def request(
    path: Path | None,
    arms: Mapping[str, Sequence[str]] | None = None,
    against: str = "",
    seeds: tuple[int, ...] | None = None,
    kinds: tuple[str, ...] | None = None,
    tries: int | None = None,
) -> Request | None:
    """Return what is asked of a study: arms of a recipe file, or a `compare.yaml`, whose keys the others replace.

    None without a file: all is taken from the study that is resumed. Raises `UsageError` where more is asked of it.
    """
    if path is None:
        if arms or against or seeds or kinds is not None or tries is not None:
            raise UsageError(
                "arms, reference, controls and tries are those of the study that is resumed: leave them out; for more "
                "seeds, name its recipe too"
            )
        return None
    asked = Request(path, dict(arms or {})) if arms or not _names_arms(path) else arm_module.read(path)
    return replace(
        asked,
        against=against or asked.against,
        seeds=seeds or asked.seeds,
        controls=asked.controls if kinds is None else kinds,
        tries=asked.tries if tries is None else tries,
    )


def _names_arms(path: Path) -> bool:
    from hft_core.recipe import recipe_file

    return bool({"arms", "vary", "recipe"}.intersection(recipe_file.read(path).data))


def study(
    asked: Request | None,
    folder: Path,
    catalogue: Catalogue,
    *,
    slots: int | None = None,
    resume: bool = False,
    options: Sequence[str] = (),
    launcher: str | Launcher | None = None,
    say: Say = lambda line: None,
) -> Summary:
    """Run a study, or resume the one in `folder` (`asked` may then be None), and write its results.

    `launcher`: as `--launcher` takes it, or one that is built; by default the one that the study was begun with.
    """
    asked = _asked(asked, folder, resume=resume)
    if isinstance(launcher, str):
        asked = replace(asked, launcher=launcher)
    if not isinstance(launcher, Launcher):
        launcher = launchers.launcher_of(asked.launcher, catalogue)
    kinds = controls.checked(controls.KINDS if asked.controls is None else asked.controls)
    given = arm_module.build(asked, catalogue)
    reference = next((arm for arm in given if arm.name == asked.against), given[0])
    arms = [*given, *controls.build(reference, given, kinds, catalogue)]
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        write_json(folder / PLAN_FILE, _plan(asked, reference.name))
        runner = JobRunner(launcher, launcher.slots(slots), folder / SHARED, tuple(options), say)
        tasks, tuned = controls.judged(reference.recipe, catalogue), list[tuning.Tuned]()
        if asked.tries:
            say(f"{len(arms)} arms × {asked.tries} tries of the learning rate")
            arms, tuned = tuning.tune(arms, asked.tries, tasks, folder, runner)
        listed = _jobs(arms, asked.seeds, folder)
        say(f"{len(arms)} arms × {len(asked.seeds)} seeds: {sum(not job.finished for job in listed)} runs are left")
        runner.run(listed)
        jobs.refuse_without_any(listed, runner.failures)
        notes: list[str] = []
        if controls.SIZED in kinds and (sized := _same_size(arms, reference, asked, folder, catalogue, notes)):
            if asked.tries:
                [sized], more = tuning.tune([sized], asked.tries, tasks, folder, runner)
                tuned += more
            arms.append(sized)
            runner.run(_jobs([sized], asked.seeds, folder))
        found = [_evidence(arm, asked.seeds, folder, runner.failures) for arm in arms]
        if controls.WITHOUT_MODEL in kinds:
            from hft_core.studies import tf_idf

            lines = tf_idf.evidence(reference.recipe, asked.seeds, catalogue, controls.KINDS[controls.WITHOUT_MODEL])
            found += [lines] if lines else []
        summary = summarize(found, reference.name, asked.seeds, tasks, notes, tuned)
        _write(folder, summary, arms, reference)
        shutil.rmtree(folder / SHARED, ignore_errors=True)
        return summary


def _asked(asked: Request | None, folder: Path, *, resume: bool) -> Request:
    """Return the request, as the study in `folder` has it where it is resumed. Raises `UsageError`."""
    plan = folder / PLAN_FILE
    if not resume:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"'{folder}' is not empty: name another folder, or give --resume to resume its study")
        if asked is None:
            raise UsageError("give a recipe, or --resume with the folder of a study")
        return _begun(asked)
    if not plan.is_file():
        if asked is None or folder.exists():
            raise UsageError(f"'{folder}' holds no study to resume: it has no {PLAN_FILE}")
        return _begun(asked)
    kept = json.loads(plan.read_text(encoding="utf-8"))
    known = Request(
        recipe=Path(kept["recipe"]),
        arms=kept["arms"],
        against=kept["against"],
        seeds=tuple(kept["seeds"]),
        controls=None if kept["controls"] is None else tuple(kept["controls"]),
        tries=kept.get("tries", 0),
        launcher=kept.get("launcher", ""),
    )
    if asked is None:
        return known
    _refuse_another(asked, known, folder)
    return replace(known, seeds=tuple(dict.fromkeys((*known.seeds, *asked.seeds))))


def _begun(asked: Request) -> Request:
    return replace(asked, seeds=asked.seeds or tuple(range(SEEDS)))


def _refuse_another(asked: Request, known: Request, folder: Path) -> None:
    """Raise `UsageError` where `asked` is not the study in `folder`; what it leaves out is no difference."""
    tries = f"{known.tries or 'no'} tries of the learning rate"
    kinds = "all controls" if known.controls is None else f"the controls {', '.join(known.controls) or '(none)'}"
    for has, without, same in (
        (f"the recipe '{known.recipe}'", "another", asked.recipe.resolve() == known.recipe),
        ("other arms", "naming any", {name: list(of) for name, of in asked.arms.items()} == known.arms),
        (f"the reference '{known.against}'", "--against", asked.against in ("", known.against)),
        (kinds, "--controls", asked.controls in (None, known.controls)),
        (tries, "--tune", asked.tries in (0, known.tries)),
    ):
        if not same:
            raise UsageError(f"the study in '{folder}' has {has}: resume it without {without}, or give a new folder")


def _plan(asked: Request, reference: str) -> dict[str, Any]:
    return {
        "recipe": str(asked.recipe.resolve()),
        "arms": {name: list(overrides) for name, overrides in asked.arms.items()},
        "against": reference,
        "seeds": list(asked.seeds),
        "controls": None if asked.controls is None else list(asked.controls),
        "tries": asked.tries,
        "launcher": asked.launcher,
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with locks.locked(folder / LOCK_FILE):
            yield
    except locks.LockedError:
        raise UsageError(f"another hft compare works on '{folder}'") from None


def _jobs(arms: Sequence[Arm], seeds: Sequence[int], folder: Path) -> list[Job]:
    """Return the runs of some arms; all seeds of an arm come before the next arm, so that runs with one beginning do
    not wait for each other. Writes their recipes. Raises `UsageError` where a recipe is another one than before."""
    beginnings = Counter(_beginning(arm) for arm in arms)
    found = []
    for arm in arms:
        shares = len(arm.recipe.stages) > 1 and beginnings[_beginning(arm)] > 1
        for seed in seeds:
            path = folder / RECIPES / arm.name / f"{seed}.yaml"
            jobs.write_recipe(path, arm.recipe, seed)
            run = folder / RUNS / arm.name / f"seed-{seed}"
            found.append(Job(arm.name, seed, path, run, folder / LOGS / f"{arm.name}-seed-{seed}.log", shares))
    return found


def _beginning(arm: Arm) -> str:
    """Return what the first stage of an arm depends on, of its recipe."""
    data = arm.recipe.model_dump(mode="json")
    first = data["stages"][0]
    return json.dumps([data["backbone"], first, {task: data["tasks"][task] for task in first["tasks"]}])


def _evidence(
    arm: Arm, seeds: Sequence[int], folder: Path, failures: Mapping[tuple[str, int], str]
) -> evidence.ArmEvidence:
    folders = {seed: folder / RUNS / arm.name / f"seed-{seed}" for seed in seeds}
    failed = {seed: reason for (name, seed), reason in failures.items() if name == arm.name}
    return evidence.gather(arm.name, folders, folder, failed, control=arm.control, overrides=arm.overrides)


def _same_size(
    arms: Sequence[Arm], reference: Arm, asked: Request, folder: Path, catalogue: Catalogue, notes: list[str]
) -> Arm | None:
    """Return the LoRA control of the size of the largest adapter, from what the runs counted; None where it is not
    needed, or cannot be made (which `notes` then says)."""
    sizes: dict[str, tuple[int, int]] = {}
    for arm in arms:
        for seed in asked.seeds:
            results = folder / RUNS / arm.name / f"seed-{seed}" / RESULTS_FILE
            if results.is_file():
                stage = json.loads(results.read_text(encoding="utf-8"))["stages"][-1]
                sizes[arm.name] = (stage["trainable"], stage["trunk"])
                break
    adapters = {n: count for n, (count, trunk) in sizes.items() if 0 < count < ADAPTER_SHARE * trunk}
    if not adapters:
        return None
    largest = max(adapters, key=adapters.__getitem__)
    loras = {
        arm.name: choice.options.get("r", 8)
        for arm in arms
        if (choice := arm.recipe.stages[-1].strategy) is not None and choice.type == "lora" and arm.name in adapters
    }
    if not loras:
        notes.append("no arm or control trains a LoRA whose size could be scaled to that of the largest adapter")
        return None
    if adapters[largest] <= max(adapters[name] for name in loras):
        return None
    one = next(iter(loras))
    rank = max(1, round(adapters[largest] / (adapters[one] / loras[one])))
    return controls.same_size(reference, rank, catalogue)


def _write(folder: Path, summary: Summary, arms: Sequence[Arm], reference: Arm) -> None:
    from hft_core.recipe import recipe_file

    chosen = next((arm for arm in arms if arm.name == summary.recommended), reference)
    recipe = recipe_file.dump(chosen.recipe)
    write_text(folder / RECOMMENDED_FILE, f"# {summary.reason}.\n{recipe}")
    write_text(folder / TABLES_FILE, tables.markdown(summary))
    write_json(folder / STUDY_FILE, summary.to_json())
