"""`hft evaluate`: scores of a finished run, on its own splits or on new rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli import evaluate_answers
from hft_core.cli.removed_options import RemovedInt8, refuse_int8
from hft_core.cli.run import TrustOption
from hft_core.cli.terminal import print_json, print_table, say, say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.predict.saved_run import SavedRun
    from hft_core.results import LabelScores
    from hft_core.training.evaluation import Measured

LABEL_COLUMNS = ("precision", "recall", "f1", "support", "predicted")


def evaluate(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="One task only.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE", help="Labelled rows; the run's own splits if left out.")
    ] = None,
    int8: RemovedInt8 = False,
    by: Annotated[
        str, typer.Option("--by", metavar="COLUMN", help="Scores by the values of a column, from the kept answers.")
    ] = "",
    details: Annotated[
        bool, typer.Option("--details", help="Confusion matrices and calibration, from the kept answers.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="RUN", help="Compare with another run row by row, from both's kept answers."),
    ] = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Score a finished run on its own splits, or on new rows."""
    refuse_int8(run, given=int8)
    if data is not None and task is None:
        raise UsageError("--data needs --task: which task are the rows for?")
    from hft_core.recipe.names import normalized

    task = None if task is None else normalized(task)
    catalogue = ctx.obj.catalogue
    if by or details or against is not None:
        if data is not None:
            raise UsageError("--by, --details and --against read the answers that the run kept: leave --data out")
        evaluate_answers.show(run, catalogue, task=task, by=by, details=details, against=against, as_json=as_json)
        return
    from hft_core.predict.saved_run import open_run

    saved = open_run(run, catalogue, trust_remote_code=trust_remote_code)
    for warning in saved.warnings:
        say_error(f"warning: {warning}")
    measured = _measured(saved, task, data)
    if as_json:
        print_json({split: _with_labels(part.scores, part.by_label) for split, part in measured.items()})
        return
    print_table(("split", "task", "metric", "value"), _lines(measured))
    for split, part in measured.items():
        for name, labels in part.by_label.items():
            say()
            print_table((f"{split}, {name}", *LABEL_COLUMNS), label_lines(labels))


def _measured(saved: SavedRun, task: str | None, data: str | None) -> dict[str, Measured]:
    """Compute scores by split, or under the name of the file with the rows."""
    from hft_core.predict import prediction

    if data is not None and task is not None:
        rows = prediction.rows_from_file(data, task)
        return {data: prediction.evaluate_by_label(saved, task, rows, on_note=_warn)}
    return prediction.evaluate_recipe_data(saved, [task] if task else list(saved.model.heads), on_note=_warn)


def _warn(note: str) -> None:
    say_error(f"warning: {note}")


def _with_labels(by_task: Mapping[str, Any], labels: Mapping[str, LabelScores]) -> dict[str, Any]:
    """Return each task's metrics, with those by label under `by_label`."""
    return {
        task: {**metrics, "by_label": labels[task]} if task in labels else metrics for task, metrics in by_task.items()
    }


def label_lines(labels: LabelScores) -> list[tuple[str, ...]]:
    """A line for each label, the rarest last."""
    ordered = sorted(labels.items(), key=lambda item: -item[1]["support"])
    return [
        (
            label,
            *(
                f"{values[name]:.4g}" if name in ("precision", "recall", "f1") else str(values[name])
                for name in LABEL_COLUMNS
            ),
        )
        for label, values in ordered
    ]


def _lines(measured: Mapping[str, Measured]) -> list[tuple[str, ...]]:
    """A line for each metric."""
    return [
        (split, task, metric, f"{value:.6g}")
        for split, part in measured.items()
        for task, metrics in part.scores.items()
        for metric, value in metrics.items()
    ]
