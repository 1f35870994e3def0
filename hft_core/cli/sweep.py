"""`hft sweep`: search values of a recipe by dev scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.terminal import print_json, print_table, say, say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.studies.sweep import SweepSummary

SHOWN = 10
"""Trials that are printed."""

SearchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="PATH=VALUES",
        help="log:1e-5:1e-2, float:0:0.5, int:4:64 or a,b,c; @PLUGIN behind it: an option of that plugin; repeat.",
    ),
]
PrunerOption = Annotated[
    str | None,
    typer.Option("--pruner", metavar="NAME", help="median (by default), hyperband, wilcoxon or none."),
]
ObjectiveOption = Annotated[
    str | None, typer.Option("--objective", metavar="T", help="The task whose dev metric counts, instead of all.")
]
MinimizeOption = Annotated[
    list[str] | None,
    typer.Option("--minimize", metavar="COST", help="Beside it: seconds, parameters or memory; repeat."),
]
SeedsOption = Annotated[
    int | None, typer.Option("--seeds", min=1, help="Runs of each trial, whose mean counts; 1 by default.")
]
LauncherOption = Annotated[
    str | None, typer.Option("--launcher", metavar="NAME", help="Where runs are computed: local, slurm,gpus=1, …")
]


def sweep(
    ctx: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE.yaml]", help="A recipe, or a sweep.yaml.")] = None,
    search: SearchOption = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Trials of all workers; 20 by default.")] = None,
    pruner: PrunerOption = None,
    objective: ObjectiveOption = None,
    minimize: MinimizeOption = None,
    seeds: SeedsOption = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="SWEEP", help="Folder for everything.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Work on the sweep in --out, beside other workers.")] = False,
    slots: Annotated[int | None, typer.Option("--slots", min=1, help="Runs at a time, which divide the cores.")] = None,
    launcher: LauncherOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json.")] = False,
) -> None:
    """Search values of a recipe by dev scores, and write the best recipe."""
    if out is None:
        raise UsageError("--out SWEEP is missing: the folder for the trials")
    if resume and (recipe or search or pruner or objective or minimize or seeds):
        raise UsageError(
            "--resume takes recipe, search, pruner, objective, seeds and costs from the sweep in --out: leave them out"
        )
    if not resume and recipe is None:
        raise UsageError("give a recipe or a sweep.yaml, or --resume with the folder of a sweep")
    if importlib.util.find_spec("optuna") is None:
        raise UsageError("'hft sweep' needs optuna: pip install 'hft-core[sweep]'")
    from hft_core.runtime import signals
    from hft_core.studies import launchers, sweep_plan
    from hft_core.studies import sweep as sweeps

    asked = None
    if recipe is not None:
        asked = sweep_plan.request(
            recipe, search or (), trials, pruner, objective, seeds=seeds, minimize=minimize or ()
        )
    try:
        with signals.listening():
            summary = sweeps.sweep(
                asked,
                out,
                ctx.obj.catalogue,
                slots=slots,
                trials=trials if resume else None,
                options=ctx.obj.again(),
                launcher=launchers.launcher_of(launcher, ctx.obj.catalogue),
                say=say_error,
            )
    except signals.Interrupted as stopped:
        raise signals.Interrupted(stopped.number, f"; resume with: hft sweep --resume --out {out}") from stopped
    if summary is not None and as_json:
        print_json(summary.to_json())
    elif summary is not None:
        _print(summary, out)


def _print(summary: SweepSummary, out: Path) -> None:
    """Print the best trial, the front, others that have a score, and what to type next."""
    from hft_core.studies.sweep import BEST_FILE, COMPARE_FILE

    ended = [trial for trial in summary.trials if trial.score is not None]
    best = next(trial for trial in ended if trial.number == summary.best)
    front = [trial for number in summary.front for trial in ended if trial.number == number and trial is not best]
    rest = [t for t in ended if t is not best and t not in front]
    rest.sort(key=lambda t: (t.state != "complete", t.number))
    rows = [
        (
            t.number,
            f"{t.state}, front" if t.number in summary.front else t.state,
            f"{t.score:.4g}",
            *(f"{t.costs[cost]:,.4g}" if cost in t.costs else "" for cost in best.costs),
            ", ".join(f"{path}={text}" for path, text in t.values.items()),
        )
        for t in [best, *front, *rest][: max(SHOWN, 1 + len(front))]
    ]
    say()
    print_table(("trial", "state", summary.objective, *best.costs, "values"), rows, wrap=("values",))
    say()
    say(f"the best recipe: {out / BEST_FILE}; whether it is better shows on fresh seeds:")
    say(f"hft compare {out / COMPARE_FILE} --out {out}-compared")
