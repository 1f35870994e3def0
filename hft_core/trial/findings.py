"""Hold what a trial found."""

from __future__ import annotations

from dataclasses import dataclass

from hft_core.strategy import Strategy


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A strategy that a stage would train by."""

    stage: str
    name: str
    """Of the strategy, for messages."""
    strategy: Strategy
    tasks: tuple[str, ...]
    before: tuple[tuple[Strategy, tuple[str, ...]], ...] = ()
    """Strategies, with their tasks, of earlier stages whose parts this one finds in the trunk."""
    folds: bool
    """Another stage follows, into whose trunk it is folded."""


@dataclass(frozen=True)
class Findings:
    """What was found and does not keep a run from its start."""

    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Fast paths that stages will not use, and why; a stage finds this again by itself, and reports it."""


class Failed(Exception):
    """A check failed; the text says what and what was expected."""
