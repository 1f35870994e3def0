"""The events of a run that observers receive, one frozen dataclass each (order: `hft_core.hooks.LifecycleHooks`).

Light (standard library only): an observer plugin may import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hft_core.results import RunResult, StageResult

Scores = Mapping[str, Mapping[str, float]]
"""Metric values by task, then by metric name."""


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    recipe: Any
    """The `hft_core.Recipe`, with all defaults written out."""
    folder: Path | None
    device: str
    precision: str
    precision_reason: str


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    index: int
    """0 for the first stage."""
    name: str
    stages: int
    tasks: tuple[str, ...]
    strategy: str
    combiner: str
    steps: int
    trainable: int
    """Number of trainable parameters of the trunk."""
    trunk: int
    """Number of parameters of the trunk, without those that the strategy added."""
    heads: int
    """Number of trainable parameters of heads."""
    before: Scores
    """Dev scores of all tasks that can be evaluated, before the first step."""
    step: int = 0
    """Number of steps that a resumed stage has already done."""
    head_warmup_steps: int = 0
    """Steps at the start in which the trunk is frozen."""
    frozen_layers: int = 0
    """Number of frozen layers of the trunk, from the bottom."""
    stored: str = ""
    """What is cached of their hidden states, or why nothing is."""
    compiled: str = ""
    """Whether the trunk's layers are compiled, and why; empty where the recipe does not ask for it."""
    train_batch_size: int = 0
    """Rows in a step, over all processes."""


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    stage: str
    step: int
    """1 for the first step of the stage."""
    steps: int
    epoch: float
    losses: Mapping[str, float]
    """Mean loss by task over the step's targets; a task absent from the step is absent here."""
    weights: Mapping[str, float]
    """The weight that the combiner gave to each task's loss or gradient."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    rows: int
    tokens: int
    """Real tokens, without padding."""
    seconds: float
    skipped: str = ""
    """Why the optimizer step was skipped; empty if it was applied."""


@dataclass(frozen=True, kw_only=True)
class EvaluationStarted:
    stage: str
    split: str
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationFinished:
    stage: str
    split: str
    step: int
    scores: Scores
    seconds: float
    by_label: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """By task and label (`hft_core.results.LabelScores`), of heads with labels."""


@dataclass(frozen=True, kw_only=True)
class Noticed:
    stage: str
    step: int
    text: str
    """What is wrong with the training so far (a loss that rises or does not fall, answers that are all the same), and
    the likeliest cause."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    stage: str
    step: int
    path: Path
    score: float


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    result: StageResult


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    result: RunResult


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    stage: str
    error: BaseException
