"""`hft env`: describe this machine and installation for a bug report."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core import __version__
from hft_core.cli.terminal import print_json, print_table
from hft_core.runtime.processor import processor

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "torchjd", "pydantic", "pluggy")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Linux's names of CPU features with bfloat16 instructions, x86 and Arm."""


def env(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show versions, processor, GPU and the number of plugins."""
    report = describe_environment(ctx.obj.catalogue)
    if as_json:
        print_json(report)
        return
    print_table(("", ""), [(name, _text(value)) for name, value in report.items()])


def describe_environment(catalogue: Catalogue) -> dict[str, Any]:
    """Describe versions and hardware by name; None for libraries that are not installed and what is unknown."""
    model, bf16 = _processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hft-core": __version__,
        **{name: _version(name) for name in LIBRARIES},
        "cpu": model,
        "cpus": os.cpu_count(),
        "cpu_bf16": bf16,
        "gpu": _gpus(),
        "plugins": dict(Counter(str(entry.state) for entry in catalogue.entries)),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> tuple[str | None, bool | None]:
    """Return the processor's name, and whether it has bfloat16 instructions."""
    name, flags = processor()
    return name, None if flags is None else not BF16_FLAGS.isdisjoint(flags)


def _gpus() -> list[str] | str:
    """Name the accelerators that torch finds, or why that is unknown."""
    if find_spec("torch") is None:
        return "unknown: torch is not installed"
    try:
        import torch
    except Exception as error:  # a torch whose libraries do not fit the machine fails in many ways
        return f"unknown: torch cannot be imported: {type(error).__name__}: {error}"
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not installed" if value is None else str(value)
