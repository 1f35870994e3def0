"""Options that commands had once: what to do instead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hft_core.errors import UsageError

RemovedInt8 = Annotated[bool, typer.Option("--int8", hidden=True)]
"""Of `predict` and `evaluate`: torch's dynamic quantization, which torch removes."""


def refuse_int8(run: Path, *, given: bool) -> None:
    """Raise `UsageError` where `--int8` was given."""
    if given:
        raise UsageError(
            f"--int8 is no option any more: 'hft export {run} --to onnx --int8 --out DIR' writes a graph with int8 "
            "weights, and compares its answers with those of the run"
        )
