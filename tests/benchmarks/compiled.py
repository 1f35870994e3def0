"""What compiled layers save a step, and after how many steps that makes up for the compilation.

python tests/benchmarks/compiled.py [--rounds N] [--steps N] [--json PATH]

Sentences of about 25 tokens, 32 a step, all of the trunk training. In one run with `torch_compile: yes`, every other
step runs the layers as they are: `compiled is times` is the median over the pairs of real tokens a second, and `break
even steps` the seconds of the trial pass that compiles the layers over what a step saves (none where that is less than
1 %). Each round is a run of its own; inductor finds nothing in its cache in the first.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import side_by_side
import torch
import workload

from hft_core import hookimpl
from hft_core.acceleration import compile
from hft_core.device.machine import find_machine
from hft_core.events import StepFinished
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.observers import Observers
from hft_core.recipe import recipe_file
from hft_core.recipe.batch_size import with_batch_sizes
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.runs.stages import Stages
from hft_core.runtime.run_folder import RunFolder

SKIPPED = 4
"""Steps at the start that do not count: the first one is counted, the others may meet another variant."""


class Turns:
    """Turns the compiled layers off and on after every step, and notes the steps' seconds."""

    def __init__(self) -> None:
        self.compiled, self.compiling = True, 0.0
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.rates: dict[bool, list[float]] = {True: [], False: []}

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        if event.step > SKIPPED:
            self.seconds[self.compiled].append(event.seconds)
            self.rates[self.compiled].append(event.tokens / event.seconds)
        self.compiled = not self.compiled
        torch.compiler.set_stance("default" if self.compiled else "force_eager")


def measured(precision: str, steps: int) -> tuple[Turns, float]:
    """The steps of a run, and the seconds of compilation."""
    rows = {"topic": workload.texts("short", 640)}
    recipe, data = workload.recipe(rows, steps + SKIPPED, strategy="full", torch_compile="yes")
    resolved = with_batch_sizes(resolve(recipe_file.from_dict(recipe), Catalogue.discover()), 1)
    turns = Turns()
    with tempfile.TemporaryDirectory() as folder:
        material = assembly.assemble(resolved, host_data=data, trust_remote_code=False)
        told = Observers([("turns", turns)], print)
        stages = Stages(material, find_machine(precision), told, RunFolder(Path(folder)))
        stages.begin()
        with mock.patch.object(compile, "failure", timed(turns, compile.failure)):
            stages.next()
        torch.compiler.set_stance("default")
        return turns, turns.compiling


def timed(turns: Turns, failure: Any) -> Any:
    """The trial pass of `hft_core.acceleration.compile`, in which the layers are compiled, with its seconds noted."""

    def wrapped(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = failure(*given, **named)
        turns.compiling = time.perf_counter() - began
        return result

    return wrapped


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=2, steps=40)
    report = side_by_side.Report("compiled")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        for precision in ("fp32", "bf16"):
            runs = [measured(precision, settings.steps) for _ in range(settings.rounds)]
            report.add(precision=precision, **facts(runs))
    side_by_side.finish(report, settings.json)


def facts(runs: list[tuple[Turns, float]]) -> dict[str, Any]:
    """A line of the table."""
    seconds = {on: statistics.median(s for turns, _ in runs for s in turns.seconds[on]) for on in (True, False)}
    pairs = [a / b for turns, _ in runs for a, b in zip(turns.rates[True], turns.rates[False], strict=False)]
    ratio = statistics.median(pairs)
    compiling = runs[0][1]
    a_step = seconds[False] * (1 - 1 / ratio)
    return {
        "compiling_s": compiling,
        "compiling_again_s": runs[-1][1] if len(runs) > 1 else None,
        "plain_ms_a_step": 1e3 * seconds[False],
        "compiled_ms_a_step": 1e3 * seconds[True],
        "compiled_is_times": ratio,
        "break_even_steps": round(compiling / a_step) if ratio > 1.01 else None,
    }


if __name__ == "__main__":
    main()
