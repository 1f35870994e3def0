"""The conformance suite: checks that every plugin of a seam must pass, run by pytest or a command.

A plugin's whole test is one line::

    test_conformance = hft_core.testing.conformance("hft-mine")

Importing this package imports no torch; making the cases of a distribution does. Only `conformance` needs pytest
(`pip install 'hft-core[test]'`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hft_core.specs import load
from hft_core.testing.check import Check, Failed, NotClaimed, Outcome, Result, Subject

if TYPE_CHECKING:
    from hft_core.testing import trunks
    from hft_core.testing.pytest_cases import conformance
    from hft_core.testing.suite import Case, cases, checks_of, examine
    from hft_core.testing.toys import CLASSES, sentence

__all__ = [
    "CLASSES",
    "Case",
    "Check",
    "Failed",
    "NotClaimed",
    "Outcome",
    "Result",
    "Subject",
    "cases",
    "checks_of",
    "conformance",
    "examine",
    "sentence",
    "trunks",
]

_LAZY = {
    **dict.fromkeys(("Case", "cases", "checks_of", "examine"), "hft_core.testing.suite"),
    **dict.fromkeys(("CLASSES", "sentence"), "hft_core.testing.toys"),
    "conformance": "hft_core.testing.pytest_cases",
}


def __getattr__(name: str) -> Any:
    if name == "trunks":
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'hft_core.testing' has no attribute '{name}'")
    return load(f"{_LAZY[name]}:{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
