"""What a study says: differences to the reference with their verdicts, cost, and one recommended arm."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hft_core.sanitize import finite
from hft_core.studies import statistics
from hft_core.studies.evidence import ArmEvidence, unequal_budgets
from hft_core.studies.statistics import BETTER, NO_DIFFERENCE, WORSE
from hft_core.studies.tuning import Tuned

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against the reference on one task."""

    arm: str
    task: str
    metric: str
    split: str
    statistics: statistics.Paired | None
    """None where no seed has both."""
    p_holm: float = 1.0
    verdict: str = NO_DIFFERENCE


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything that `study.json` holds."""

    reference: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    """That arms are judged by."""
    arms: tuple[ArmEvidence, ...]
    comparisons: tuple[Comparison, ...]
    delta_m: dict[str, dict[str, Any]]
    """By arm and split: `mean` and `parts` by task."""
    budgets: dict[str, tuple[str, ...]]
    """By arm: costs that differ from the reference's by more than 5 %."""
    pareto: tuple[str, ...]
    """Arms that no other one beats in dev Δm, trainable parameters and seconds together."""
    recommended: str
    reason: str
    notes: tuple[str, ...] = field(default=())
    tuning: tuple[Tuned, ...] = ()
    """What was tried of each arm's learning rate before."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `study.json`, with null for numbers that are not finite."""
        value: dict[str, Any] = finite({"format": FORMAT, **asdict(self)})
        return value


def summarize(
    arms: Sequence[ArmEvidence],
    reference: str,
    seeds: Sequence[int],
    tasks: Collection[str],
    notes: Sequence[str] = (),
    tuned: Sequence[Tuned] = (),
) -> Summary:
    """Judge all arms against the reference: chosen by dev scores, the verdicts by test scores."""
    base = next(arm for arm in arms if arm.name == reference)
    split = "test" if any(base.main("test", task) for task in tasks) else "dev"
    said = list(notes) + ([] if split == "test" else ["no task has test rows: the verdicts are about dev scores"])
    comparisons = _comparisons(arms, base, split, tasks)
    delta = {
        arm.name: {part: _delta_m(arm, base, part, tasks) for part in dict.fromkeys(("dev", split))} for arm in arms
    }
    n = max((len(arm.seeds) for arm in arms), default=0)
    if n < 2:
        said.append("one seed shows no difference: give 3 or more (--seeds)")
    elif 2 / 2**n > 0.05:
        said.append(f"{n} seeds cannot give a sign-flip p below {2 / 2**n:.3g}; the verdicts are by the t test")
    for arm in arms:
        said += [f"{arm.name}, seed {seed} failed: {reason}" for seed, reason in arm.failed.items()]
    said += [
        f"{one.arm}: the chosen {one.key} is at the edge of those that were tried: a better one may lie beyond"
        for one in tuned
        if one.at_edge
    ]
    said += [f"{one.arm}: its learning rate was not tuned: {one.failed}" for one in tuned if one.failed]
    recommended, reason = _recommend(arms, base, comparisons, delta, tasks)
    return Summary(
        reference=reference,
        seeds=tuple(seeds),
        tasks=tuple(tasks),
        arms=tuple(arms),
        comparisons=tuple(comparisons),
        delta_m=delta,
        budgets={arm.name: tuple(unequal_budgets(arm, base)) for arm in arms if arm is not base},
        pareto=_pareto(_whole(arms, tasks), delta),
        recommended=recommended,
        reason=reason,
        notes=tuple(said),
        tuning=tuple(tuned),
    )


def _comparisons(
    arms: Sequence[ArmEvidence], base: ArmEvidence, split: str, tasks: Collection[str]
) -> list[Comparison]:
    found = []
    for arm in arms:
        for task in tasks if arm is not base else ():
            if task not in arm.main_metrics:
                continue
            ours, theirs = arm.main(split, task), base.main(split, task)
            sign = 1.0 if base.greater_is_better.get(task, True) else -1.0
            both = [seed for seed in ours if seed in theirs and math.isfinite(ours[seed] - theirs[seed])]
            differences = [sign * (ours[seed] - theirs[seed]) for seed in both]
            measured = statistics.paired(differences) if differences else None
            metric = base.main_metrics[task]
            found.append(Comparison(arm=arm.name, task=task, metric=metric, split=split, statistics=measured))
    known = [c for c in found if c.statistics is not None]
    if not known:
        return found
    adjusted = statistics.holm([c.statistics.p for c in known if c.statistics is not None])
    means = np.array([c.statistics.mean for c in known if c.statistics is not None])
    judged = {
        id(c): (float(p), str(v)) for c, p, v in zip(known, adjusted, statistics.verdicts(means, adjusted), strict=True)
    }
    return [
        Comparison(**{**c.__dict__, "p_holm": judged[id(c)][0], "verdict": judged[id(c)][1]}) if id(c) in judged else c
        for c in found
    ]


def _delta_m(arm: ArmEvidence, base: ArmEvidence, split: str, tasks: Collection[str]) -> dict[str, Any]:
    ours = {task: value for task in tasks if (value := arm.mean(split, task)) is not None}
    theirs = {task: value for task in tasks if (value := base.mean(split, task)) is not None}
    mean, parts = statistics.delta_m(ours, theirs, {task: base.greater_is_better.get(task, True) for task in theirs})
    return {"mean": mean, "parts": parts}


def _pareto(arms: Sequence[ArmEvidence], delta: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    points = {
        arm.name: (delta[arm.name]["dev"]["mean"], -arm.cost["trainable"], -arm.cost["seconds"])
        for arm in arms
        if arm.cost and delta[arm.name]["dev"]["mean"] is not None
    }
    return tuple(
        name
        for name, point in points.items()
        if not any(
            all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points.values()
        )
    )


def _whole(arms: Sequence[ArmEvidence], tasks: Collection[str]) -> list[ArmEvidence]:
    """Return the arms that were trained, on all tasks."""
    return [arm for arm in arms if arm.cost and all(arm.mean("dev", task) is not None for task in tasks)]


def _recommend(
    arms: Sequence[ArmEvidence],
    base: ArmEvidence,
    comparisons: Sequence[Comparison],
    delta: dict[str, dict[str, Any]],
    tasks: Collection[str],
) -> tuple[str, str]:
    """Return the recommended arm and why, among those that have all tasks and a recipe of their own."""
    whole = _whole(arms, tasks)
    if not whole:
        return base.name, "no arm was finished on all tasks"
    verdicts = {arm.name: [c.verdict for c in comparisons if c.arm == arm.name] for arm in whole}
    best = max(whole, key=lambda arm: delta[arm.name]["dev"]["mean"] or 0.0)
    shown = verdicts[best.name]
    if BETTER in shown and WORSE not in shown:
        gain = delta[best.name]["dev"]["mean"] or 0.0
        return best.name, (
            f"'{best.name}' has the best dev scores (Δm {gain:+.1%}) and is better than '{base.name}' on the test rows "
            f"of {shown.count(BETTER)} of {len(tasks)} tasks, worse on none"
        )
    sound = [arm for arm in whole if WORSE not in verdicts[arm.name]]
    cheapest = min(sound, key=lambda arm: arm.cost["seconds"])
    nobody = f"no arm is shown to be better than '{base.name}'"
    if any(BETTER in said for said in verdicts.values()):
        nobody = f"the arm with the best dev scores, '{best.name}', is not shown to be better than '{base.name}'"
    if cheapest is base:
        return base.name, f"{nobody}, which is the cheapest of those not shown to be worse"
    return cheapest.name, f"{nobody}, and '{cheapest.name}' is the cheapest of those not shown to be worse"
