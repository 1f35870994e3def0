"""Writes `families.md`: trains tiny models of every family of transformers with some strategies and heads.

`python docs/reference/families_page.py --seconds 280` continues where the page ends, one family after another;
`--only NAME …` runs some families again. `tests/docs/test_families_page.py` runs a sample of the cells.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.errors import HftError
from hft_core.model.hybrid import HybridModel
from hft_core.testing import Subject
from hft_core.testing.toy_task import rows_of

PAGE = Path(__file__).with_name("families.md")
MODELS = PAGE.parents[2] / "tests" / "families.py"
STRATEGIES = ("full", "lora", "frozen", "task-lora", "prefix", "bottleneck")
HEADS = ("classification", "token-classification", "lm")
EQUAL, HFT_ONLY, FAILS, NOT_RUN = "✓", "h", "✗", "·"
TOLERANCE = 1e-4
LONGEST = 45
"""CPU seconds that the cells of a family may take in one call."""
TASK = "task"
TEXTS = ("the cat saw the dog again and again", "the dog")

INTRODUCTION = """\
# Families

Tiny random models of {count} families of transformers {version}, with six strategies and three heads:
`classification`, `token-classification`, and the one that trains the family's LM head (`mlm`, `clm` or `seq2seq`;
second column). Each cell has the marks of the three heads in this order. All heads were run with `full` and `lora`.

- ✓: trained for two steps, reopened by hft, and opened by the lines of the run's README, with equal outputs each time
- h: trained and reopened with equal outputs; transformers has no class for it, so that only hft opens it
- a number: refused, for the reason under that number
- ✗ and a number: it fails, as is said under that number
- ·: not run

Outputs are those of two rows, one of them padded, and differ by at most {tolerance:g}. Models have at most
{largest:,} parameters. `docs/reference/families_page.py` writes this page; a test runs a sample of its cells.

Known differences in other libraries: PEFT calls BigBird's class with a prefix in a way that fails, and renames Laguna's
modules when it loads; Funnel's class sets the padding token's embedding to zero when it loads.
"""


def models() -> ModuleType:
    """The tests' module that makes tiny models."""
    name = "hft_families"
    if name not in sys.modules:
        spec = spec_from_file_location(name, MODELS)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@dataclass
class Table:
    """What the page says: marks by family, strategy and head, with what the numbers stand for."""

    cells: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Families that no tiny model could be made of, and why."""

    def text(self) -> str:
        reasons: dict[str, int] = {}
        kinds = models().kinds()
        largest = models().LARGEST
        version = transformers.__version__
        head = ["family", "LM head", *(f"`{name}`" for name in STRATEGIES)]
        lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' :-: |' * len(STRATEGIES)}"]
        for family, by_strategy in sorted(self.cells.items()):
            marks = [" ".join(_numbered(each, reasons) for each in by_strategy[name]) for name in STRATEGIES]
            lines.append(f"| {family} | `{kinds.get(family, '')}` | {' | '.join(marks)} |")
        notes = [f"{number}. {reason}" for reason, number in reasons.items()]
        left = [f"- {family}: {reason}" for family, reason in sorted(self.missing.items())]
        start = INTRODUCTION.format(count=len(self.cells), version=version, tolerance=TOLERANCE, largest=largest)
        without = ["", "## Families without a tiny model", "", *left] if left else []
        return "\n".join([start, *lines, "", *notes, *without]) + "\n"


def _numbered(mark: str, reasons: dict[str, int]) -> str:
    """A mark, or the number of what was said."""
    if mark in (EQUAL, HFT_ONLY, NOT_RUN):
        return mark
    failed, said = mark.startswith(FAILS), mark.removeprefix(FAILS)
    return f"{FAILS if failed else ''}{reasons.setdefault(said, len(reasons) + 1)}"


def read(page: str) -> Table:
    """Return what a page says."""
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", page, re.MULTILINE))
    table = Table(
        missing=dict(re.findall(r"^- ([\w.-]+): (.*)$", page.partition("## Families without")[2], re.MULTILINE))
    )
    for family, rest in re.findall(r"^\| ([\w.-]+) \| `\w*` \| (.*) \|$", page, re.MULTILINE):
        columns = [[_said(mark, reasons) for mark in column.split()] for column in rest.split(" | ")]
        table.cells[family] = dict(zip(STRATEGIES, columns, strict=True))
    return table


def _said(mark: str, reasons: Mapping[str, str]) -> str:
    number = mark.removeprefix(FAILS)
    return (FAILS if mark.startswith(FAILS) else "") + reasons[number] if number.isdigit() else mark


class Family:
    """A tiny model of a family, and the runs on it."""

    def __init__(self, name: str, folder: Path, catalogue: Catalogue) -> None:
        self.name, self.folder, self.catalogue = name, folder, catalogue
        self.model = folder / "model"
        self.kind = models().kinds()[name]
        self.missing = models().save(name, self.model)
        """Why there is no model; empty where there is one."""

    def cell(self, strategy: str, head: str) -> str:
        """Run one cell and return its mark."""
        head = self.kind if head == "lm" else head
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        try:
            expected = self._trained(strategy, head, run)
        except HftError as error:
            line = str(error)
            return (FAILS if "unexpected" in line else "") + self._anonymous(line)
        except Exception as error:  # what a person would see as a crash
            return FAILS + self._anonymous(f"{type(error).__name__}: {error}")
        try:
            return self._reopened(run, head, expected)
        except Exception as error:  # likewise
            return FAILS + self._anonymous(f"reopened: {type(error).__name__}: {error}")

    def _trained(self, strategy: str, head: str, run: Path) -> torch.Tensor:
        recipe = {
            "backbone": {"model": str(self.model)},
            "tasks": {TASK: {"head": {"type": head, **self._example("head", head)}}},
            "stages": [
                {
                    "strategy": {"type": strategy, **self._example("strategy", strategy)},
                    "max_steps": 2,
                    "learning_rate": 0.01,
                    "per_device_train_batch_size": 4,
                    "eval_strategy": "no",
                }
            ],
            "precision": "fp32",
        }
        subject = Subject(self.catalogue.get("head", head), self.catalogue)
        rows = {split: rows_of(subject, count, seed) for seed, (split, count) in enumerate([("train", 8), ("dev", 4)])}
        data = {TASK: rows}
        with hft_core.session(recipe, output=run, catalogue=self.catalogue, data=data) as session:
            while session.left:
                session.run_stage()
            session.finish()
            return outputs(session.model, self._inputs(session.model))

    def _reopened(self, run: Path, head: str, expected: torch.Tensor) -> str:
        saved = hft_core.open_run(run, catalogue=self.catalogue)
        inputs = self._inputs(saved.model)
        found = outputs(saved.model, inputs)
        if not _equal(expected, found):
            return f"{FAILS}reopened, its outputs differ"
        outputs(saved.model, self._inputs(saved.model, ["a"]))
        if not _equal(found, outputs(saved.model, inputs)):
            return f"{FAILS}its outputs depend on what was asked before"
        code = re.search(r"```python\n(.*?)```", (run / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        if code is None:
            return HFT_ONLY
        left = _from_readme(code.group(1), run)
        pads = getattr(getattr(saved.model.head(TASK), "scorer", None), "pads", "right")
        if saved.model.head(TASK).family is None:  # the lines compute the head as well
            logits = left["logits"]
        else:
            # With a cache, FSMT's decoder sees the tokens to come in one pass; training does without one.
            whole = {"use_cache": False} if self.kind == "seq2seq" else {}
            with torch.no_grad():
                logits = left["model"].eval()(**self._inputs(saved.model, side=pads), **whole).logits
        rows = inputs["attention_mask"].bool() if logits.ndim == 3 else slice(None)
        if not _equal(found[rows], logits[rows]):
            return f"{FAILS}opened by the README's lines, its outputs differ"
        return EQUAL

    def _inputs(self, model: HybridModel, texts: Sequence[str] = TEXTS, side: str = "right") -> dict[str, torch.Tensor]:
        """Texts as a batch; the second of `TEXTS` is padded."""
        tokenizer: Any = model.backbone.tokenizer
        inputs = dict(tokenizer(list(texts), padding=True, return_tensors="pt", padding_side=side))
        if self.kind == "seq2seq" and model.head(TASK).family is model.backbone.language_model:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        return inputs

    def _example(self, seam: str, name: str) -> dict[str, Any]:
        spec = self.catalogue.get(seam, name).spec
        assert spec is not None
        return dict(spec.example)

    def _anonymous(self, line: str) -> str:
        """One line without the name of this family's folder."""
        return " ".join(line.replace(str(self.model), "MODEL").replace(str(self.folder), "RUN").split())[:220]


def outputs(model: HybridModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The head's logits `[batch, …]`."""
    model.eval()
    head: Any = model.head(TASK)
    with torch.no_grad():
        hidden = model.strategy.forward(model.backbone, inputs, [(TASK, slice(0, len(inputs["input_ids"])))])
        if hasattr(head, "language_model"):
            logits: torch.Tensor = head.language_model(hidden.flatten(0, 1)).view(*hidden.shape[:2], -1)
            return logits
        found: torch.Tensor = head.raw_outputs(Features(hidden, inputs["input_ids"], inputs["attention_mask"]))
        return found


def _from_readme(code: str, run: Path) -> dict[str, Any]:
    """What the lines leave behind, with `TEXTS` in place of the texts that they show."""
    namespace: dict[str, Any] = {}
    shown = 'texts = ["A first text.", "A second and somewhat longer text."]'
    with contextlib.chdir(run):
        exec(code.replace(shown, f"texts = {list(TEXTS)!r}"), namespace)  # noqa: S102  # the lines that hft wrote
    return namespace


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE)


@contextlib.contextmanager
def opened(name: str, catalogue: Catalogue) -> Iterator[Family]:
    """A family's tiny model in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Family(name, Path(folder), catalogue)


class TooLong(BaseException):
    """A family takes too long."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TooLong` after so many seconds of CPU time."""

    def stop(*_: object) -> None:
        raise TooLong

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def fill(table: Table, family: str, catalogue: Catalogue, *, heads: Mapping[str, Sequence[str]]) -> None:
    """Run the cells of a family; `heads`: those to run, by strategy."""
    try:
        with limited(LONGEST), opened(family, catalogue) as made:
            _fill(table, family, made, heads)
    except TooLong:
        table.missing[family] = f"its cells take more than {LONGEST} seconds"
        table.cells.pop(family, None)
    gc.collect()


def _fill(table: Table, family: str, made: Family, heads: Mapping[str, Sequence[str]]) -> None:
    if made.missing:
        table.missing[family] = made.missing
        return
    row = table.cells.setdefault(family, {name: [NOT_RUN] * len(HEADS) for name in STRATEGIES})
    for strategy, chosen in heads.items():
        for head in chosen:
            place = HEADS.index(head)
            if row[strategy][place] == NOT_RUN:
                row[strategy][place] = made.cell(strategy, head)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no family after this time")
    parser.add_argument("--only", nargs="*", help="run these families again")
    parser.add_argument("--strategies", nargs="*", default=STRATEGIES, help="those to run")
    parser.add_argument("--heads", nargs="*", default=HEADS, help="those to run")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    table = read(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else Table()
    catalogue, end = Catalogue.discover(), time.monotonic() + given.seconds
    for family in given.only or models().kinds():
        if given.only:
            table.cells.pop(family, None)
            table.missing.pop(family, None)
        if family in table.missing or time.monotonic() > end:
            continue
        row = table.cells.get(family)
        heads = {
            name: [h for h in given.heads if row is None or row[name][HEADS.index(h)] == NOT_RUN]
            for name in given.strategies
        }
        if any(heads.values()):
            fill(table, family, catalogue, heads=heads)
            PAGE.write_text(table.text(), encoding="utf-8")
            print(family, table.cells.get(family) or table.missing[family], flush=True)


if __name__ == "__main__":
    main()
