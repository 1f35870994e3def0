"""Fit how outputs become answers (temperature, thresholds) to the dev rows, at the end of a run, where heads ask."""

from __future__ import annotations

from dataclasses import replace

from hft_core.runs.stages import Stages
from hft_core.training.evaluation import Keep, TaskEvaluation, measure

LEAST_ROWS = 10
"""Dev rows below which nothing is fitted."""


def fit_decisions(stages: Stages, keep: Keep | None) -> list[str]:
    """Evaluate the dev rows of the heads that fit a decision, let them fit it, and score these rows anew with it.

    `keep` is given the evaluations with the predictions as they are then. Returns a line for each task that has too few
    dev rows to fit to. All processes fit the same, since all of them have all predictions.
    """
    heads, examples = stages.material.heads, stages.material.examples["dev"]
    asked = [task for task, head in heads.items() if head.fits_decision]

    def fit(task: str, evaluation: TaskEvaluation) -> None:
        head, of_task = heads[task], examples[task]
        references = of_task.references(of_task.answered(head), head)
        predictions = list(head.fit_decision(evaluation.predictions, references))
        stages.scores[task] = head.metrics(predictions, references, evaluation.loss)
        if keep is not None:
            keep(task, replace(evaluation, predictions=predictions))

    fitted = [task for task in asked if task in examples and len(examples[task].answered(heads[task])) >= LEAST_ROWS]
    if fitted:
        seed = stages.material.resolved.recipe.seed
        measure(stages.material.model, fitted, examples, stages.machine, seed=seed, plan=stages.execution, keep=fit)
    return [
        f"task '{task}': no temperature or threshold was fitted to its {len(examples.get(task, ()))} dev rows: "
        f"{LEAST_ROWS} are needed"
        for task in asked
        if task not in fitted
    ]
