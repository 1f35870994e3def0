"""What `hft evaluate` prints of the answers that runs have kept: slices, confusion, calibration, two runs compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.cli.terminal import print_json, print_table, say
from hft_core.errors import ModelError, UsageError, did_you_mean

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.reports.record import Record
    from hft_core.reports.row_texts import RowTexts
    from hft_core.runs.answers import Answers

Part = tuple[str, str, str, Any]
"""Title, task, split and what is printed of it."""


def show(
    run: Path, catalogue: Catalogue, *, task: str | None, by: str, details: bool, against: Path | None, as_json: bool
) -> None:
    """Print what was asked for. Raises `UsageError`, and `ModelError` where a run kept no answers."""
    from hft_core.reports import record as records
    from hft_core.reports.row_texts import RowTexts, row_texts

    record = records.read(run)
    if task is not None and task not in record.tasks:
        raise UsageError(f"the run has no task '{task}'.{did_you_mean(task, record.tasks)}")
    kept = {t: _kept(record, t) for t in ([task] if task else record.tasks)}
    if not any(kept.values()):
        raise ModelError(f"{run}: the run kept no answers (output.predictions keeps them)")
    texts = row_texts(run, catalogue) if by or against is not None else RowTexts()
    found: list[Part] = []
    if by:
        found += _sliced(kept, texts, by)
    if details:
        found += _detailed(kept)
    if against is not None:
        found += _compared(kept, records.read(against), texts)
    if as_json:
        print_json([{"what": w, "task": t, "split": s, "value": _plain(value)} for w, t, s, value in found])
        return
    for i, part in enumerate(found):
        if i:
            say()
        _print(part)


def _plain(value: Any) -> Any:
    return [asdict(item) for item in value] if isinstance(value, list) else asdict(value)


def _kept(record: Record, task: str) -> dict[str, Answers]:
    return {split: a for split in ("dev", "test") if (a := record.answers(task, split)) is not None}


def _sliced(kept: Mapping[str, Mapping[str, Answers]], texts: RowTexts, by: str) -> Iterator[Part]:
    from hft_core.studies.slices import row_scores, slices

    if not texts.has(by):
        known = texts.columns_of(kept)
        raise UsageError(f"--by {by}: {texts.problem or f'no task has this column.{did_you_mean(by, known)}'}")
    for task, of_task in kept.items():
        for split, answers in of_task.items():
            scores, cells = row_scores(answers), texts.of(task, split, by)
            places = answers.places
            if scores is None or not any(by in cells.get(place, ()) for place in places):
                continue
            if missing := sum(place not in cells for place in places):
                raise UsageError(f"--by {by}: {missing} rows of task '{task}' ({split}) are in its files no more")
            yield scores.name, task, split, slices(scores, [cells[place].get(by) for place in places])


def _detailed(kept: Mapping[str, Mapping[str, Answers]]) -> Iterator[Part]:
    from hft_core.runs.answer_statistics import calibration, confusion

    for task, of_task in kept.items():
        for split, answers in of_task.items():
            for title, measured in (("confusion", confusion(answers)), ("calibration", calibration(answers))):
                if measured is not None:
                    yield title, task, split, measured


def _compared(kept: Mapping[str, Mapping[str, Answers]], other: Record, texts: RowTexts) -> Iterator[Part]:
    from hft_core.studies.row_comparison import compare_rows

    common = [task for task in kept if task in other.tasks]
    if not common:
        raise UsageError(f"--against {other.folder}: the two runs have no task in common")
    for task in common:
        theirs = _kept(other, task)
        for split, answers in kept[task].items():
            if split not in theirs:
                raise ModelError(f"{other.folder}: the run kept no answers of task '{task}' on {split}")
            try:
                yield "against", task, split, compare_rows(answers, theirs[split], texts.groups(task, split))
            except UsageError as error:
                raise UsageError(f"--against {other.folder}: task '{task}' ({split}): {error}") from error


def _print(part: Part) -> None:
    title, task, split, value = part
    if title == "confusion":
        rows: list[Sequence[object]] = [(name, *line) for name, line in zip(value.names, value.counts, strict=True)]
        print_table((f"{task}, {split}: reference ↓ predicted →", *value.names), rows)
    elif title == "calibration":
        lines = [(f"{b.confidence:.3f}", f"{b.accuracy:.3f}", b.rows) for b in value.bins]
        print_table((f"{task}, {split}: confidence", "right answers", "rows"), lines)
        say(f"ECE {value.scores.ece:.4f}, Brier {value.scores.brier:.4f}, NLL {value.scores.nll:.4f}")
    elif title == "against":
        print_table(
            (f"{task}, {split}", "rows", "this run", "other", "95 % of the difference", "p (McNemar)", "verdict"),
            [(value.score, value.rows, f"{value.mean:.4g}", f"{value.other:.4g}", _interval(value),
              "–" if value.p is None else f"{value.p:.2g}", value.verdict)],
        )  # fmt: skip
        if value.score == "right answers":
            say(f"only this run is right on {value.only_one} rows, only the other on {value.only_other}")
    else:
        rows = [(s.name, s.rows, f"{s.mean:.4g}", _interval(s), f"{s.p:.2g}") for s in value]
        print_table((f"{task}, {split}", "rows", title, "95 % interval", "p (Holm) of a difference to the rest"), rows)


def _interval(value: Any) -> str:
    return f"{value.low:.3g} to {value.high:.3g}"
