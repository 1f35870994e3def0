"""Try a run out before anything is written: each of its strategies, in the number format that it chose."""

from __future__ import annotations

from dataclasses import replace

from hft_core.device.machine import Machine
from hft_core.device.precision import Precision
from hft_core.errors import ModelError
from hft_core.runs import assembly
from hft_core.runs.assembly import BuiltRun
from hft_core.trial.findings import Candidate, Findings
from hft_core.trial.try_out import try_out

DEFAULT_STRATEGY = "full"


def try_run(built: BuiltRun, machine: Machine, *, wanted: str, kernels: bool = False) -> tuple[Findings, Machine]:
    """Try out the run's strategies; return what was found, and the machine with the number format that works.

    `wanted`: the recipe's number format; for `auto`, bfloat16 that fails gives way to float32. Raises `ModelError`.
    """
    try:
        return _findings(built, machine, kernels), machine
    except ModelError as error:
        if machine.precision.name == "fp32":
            raise
        single = replace(machine, precision=_single(machine, str(error)))
        findings = _findings(built, single, kernels)  # raises where float32 fails as well
        if wanted != "auto":
            raise ModelError(f"{error}; in float32 it works: set precision: fp32") from error
        note = f"bfloat16 was not used: {error}"
        return replace(findings, warnings=(*findings.warnings, note)), single


def _single(machine: Machine, reason: str) -> Precision:
    return Precision("fp32", f"bfloat16 failed: {reason}", machine.precision.gflops)


def _findings(built: BuiltRun, machine: Machine, kernels: bool) -> Findings:
    return try_out(
        built.model,
        _candidates(built),
        built.examples["train"],
        machine,
        seed=built.resolved.recipe.seed,
        kernels=kernels,
    )


def _candidates(built: BuiltRun) -> list[Candidate]:
    """Return the run's strategies, equal ones on the same tasks once."""
    found: dict[tuple[object, ...], Candidate] = {}
    for index, each in enumerate(built.resolved.stages):
        folds = built.resolved.folds_after(index)
        choice = each.stage.strategy
        key = (None if choice is None else choice.model_dump_json(), each.stage.tasks, folds)
        if key not in found:
            found[key] = Candidate(
                stage=each.stage.name,
                name=each.strategy.entry.name if each.strategy is not None else DEFAULT_STRATEGY,
                strategy=assembly.strategy_of(each),
                tasks=tuple(each.stage.tasks),
                before=tuple(
                    (assembly.strategy_of(stage), tuple(stage.stage.tasks))
                    for stage in built.resolved.strategies_before(index)
                ),
                folds=folds,
            )
    return list(found.values())
