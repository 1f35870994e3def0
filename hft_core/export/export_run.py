"""Export a finished run, and judge what was written by its answers to the run's own test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hft_core.errors import RunError, UsageError, did_you_mean
from hft_core.export import held_out, verdict
from hft_core.export.export_format import Exported, ExportFormat
from hft_core.export.gguf_folder import GgufFolder
from hft_core.export.gguf_tensors import OUTTYPES
from hft_core.export.held_out import Answered, HeldOut
from hft_core.export.onnx_folder import OnnxFolder
from hft_core.export.plain_folders import PlainFolders
from hft_core.export.sentence_folders import SentenceFolders
from hft_core.export.verdict import INT8_TOLERANCE, TOLERANCE, TaskVerdict, Verdict
from hft_core.plugins.catalogue import Catalogue
from hft_core.predict.saved_run import SavedRun, open_run
from hft_core.runtime import output_probe
from hft_core.runtime.files import write_json
from hft_core.runtime.new_folder import new_folder

FORMATS = ("hf", "onnx", "sentence-transformers", "gguf")
DEFAULT_OUTTYPE = "f16"
COARSE = ("bf16", "q8_0")
"""Number formats whose rounding is allowed what that of int8 is."""
VERDICT_FILE = "verdict.json"


def export_run(
    run: str | Path,
    to: str,
    out: str | Path,
    catalogue: Catalogue,
    *,
    tasks: Sequence[str] = (),
    int8: bool = False,
    outtype: str | None = None,
    tolerance: float | None = None,
    trust_remote_code: bool = False,
) -> Verdict:
    """Write tasks (all, if none are named) of the finished run in the format `to` into the new folder `out`.

    The verdict is also in `out`, which is there only once everything is. Raises `UsageError` for what cannot be
    exported, before anything is computed where that can be known.
    """
    out = Path(out)
    form = _format(to, int8=int8, outtype=outtype)
    _check_out(out)
    saved = open_run(run, catalogue, trust_remote_code=trust_remote_code)
    chosen = _tasks(saved, tasks)
    kept_in = saved.model.backbone.quantization
    if kept_in:
        raise UsageError(
            f"the run's trunk is in {kept_in} (backbone.quantization), and what is exported would be in float32 and "
            f"answer otherwise: {saved.folder / 'model'} has what the run trained"
        )
    form.check(saved, chosen)
    rows = held_out.held_out(saved, chosen)
    original = {task: held_out.of_run(saved, task, rows[task]) for task in chosen}
    if saved.model.strategy.adapter and saved.resolved.stages[-1].merges:
        saved.model.fold_strategy()
    try:
        with new_folder(out) as partial:
            form.write(saved, chosen, partial)
            judged = _judged(form.open(saved, chosen, partial), saved, rows, original)
            found = Verdict(judged, _tolerance(tolerance, coarse=int8 or outtype in COARSE))
            numbers = {"outtype": form.outtype} if isinstance(form, GgufFolder) else {"int8": int8}
            write_json(partial / VERDICT_FILE, {"to": to, **numbers, **found.facts()})
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}") from error
    return found


def _format(to: str, *, int8: bool, outtype: str | None) -> ExportFormat:
    if to not in FORMATS:
        raise UsageError(f"--to {to}: unknown format.{did_you_mean(to, FORMATS)}")
    if int8 and to != "onnx":
        raise UsageError("--int8 goes with --to onnx" + (": here it is --outtype q8_0" if to == "gguf" else ""))
    if outtype is not None and to != "gguf":
        raise UsageError("--outtype goes with --to gguf")
    if outtype is not None and outtype not in OUTTYPES:
        raise UsageError(f"--outtype {outtype}: unknown number format.{did_you_mean(outtype, OUTTYPES)}")
    forms: dict[str, Callable[[], ExportFormat]] = {
        "hf": PlainFolders,
        "onnx": lambda: OnnxFolder(int8),
        "sentence-transformers": SentenceFolders,
        "gguf": lambda: GgufFolder(outtype or DEFAULT_OUTTYPE),
    }
    return forms[to]()


def _check_out(out: Path) -> None:
    output_probe.check_path(out)
    if out.exists() or out.is_symlink():
        raise UsageError(f"--out {out} is there already: expected the name of a new folder")


def _tolerance(wanted: float | None, *, coarse: bool) -> float:
    return wanted if wanted is not None else INT8_TOLERANCE if coarse else TOLERANCE


def _tasks(saved: SavedRun, named: Sequence[str]) -> list[str]:
    known = list(saved.model.heads)
    unknown = next((task for task in named if task not in known), None)
    if unknown is not None:
        raise UsageError(f"the run has no task '{unknown}'.{did_you_mean(unknown, known)}")
    return list(dict.fromkeys(named)) or known


def _judged(
    exported: Exported, saved: SavedRun, rows: Mapping[str, HeldOut], original: Mapping[str, Answered]
) -> dict[str, TaskVerdict]:
    """Compare the answers of what was exported with those of the run, by task."""
    found = {}
    for task, answered in original.items():
        head, held = saved.model.head(task), rows[task]
        found[task] = verdict.compare(
            answered,
            held_out.of_exported(exported, saved, task, held),
            split=held.split,
            rows=len(held.rows),
            main_metric=head.main_metric,
            greater_is_better=head.greater_is_better,
        )
    return found
