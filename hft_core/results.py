"""Hold a run's results, as typed values and as the content of `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hft_core.pins import Pins
from hft_core.sanitize import finite

Scores = dict[str, dict[str, float]]
"""Metric values by task, then by metric name."""
LabelScores = dict[str, dict[str, float]]
"""By label: `precision`, `recall`, `f1`, `support` (how often it occurs) and `predicted` (how often it was given)."""


@dataclass(frozen=True, kw_only=True)
class CalibrationScores:
    """How far the probabilities of a task with one label a row are what they say."""

    ece: float
    """Expected calibration error, over ten bins of equal width of the highest probability."""
    brier: float
    """Mean squared distance of the probabilities to the right answer, summed over labels."""
    nll: float
    """Mean −log of the right label's probability."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The dev scores of a stage's tasks after a step."""

    step: int
    epoch: float
    scores: Scores
    score: float | None
    """What the best weights are chosen by (higher is better); None where nothing can be measured."""


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """How the training of a task in a stage went."""

    steps: int
    rate: float
    """Learning rate of the trunk, or of the heads where the trunk is frozen."""
    usual_rate: float
    """The same by default."""
    first_loss: float | None
    """Mean training loss over the first steps; None without any."""
    last_loss: float | None
    """Over the last steps."""
    only_label: str = ""
    """The label that all rows of the last evaluation got, where they have several; empty: none."""


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """One stage: what it cost and what it changed."""

    name: str
    tasks: tuple[str, ...]
    strategy: str
    combiner: str
    steps: int
    """Steps done."""
    best_step: int
    """The step whose weights the stage ends with."""
    stopped_early: bool
    learning_rate: float
    head_learning_rate: float
    head_warmup_steps: int
    trainable: int
    """Trunk parameters that trained."""
    trunk: int
    """Trunk parameters in all, without what the strategy added."""
    heads: int
    """Head parameters that trained."""
    before: Scores
    """Dev scores before the stage of all tasks that could be measured."""
    after: Scores
    """Dev scores of the same tasks, and of the stage's own, with the weights that the stage ends with."""
    main_metrics: dict[str, str]
    """The main metric of each task in `after`."""
    history: tuple[Evaluation, ...]
    rows: int
    tokens: int
    rows_per_s: float
    tokens_per_s: float
    """Real tokens, without padding, in a second of training."""
    precision: str
    """The number format of the trunk's products, `fp32` or `bf16`."""
    precision_reason: str
    gemm_share: float | None
    """The share of the machine's measured rate of products in that format that training reached
    (`hft_core.device.flops`), in the first process; None where nothing was multiplied."""
    seconds: dict[str, float]
    """`data`, `forward`, `backward`, `optimizer` (these four are training), `evaluation`, `saving`, `other`, and
    `total`, with those before a resume (see `hft_core.device.clock`)."""
    skipped_steps: int
    compilation: dict[str, Any] = field(default_factory=dict)
    """Whether the trunk's layers were compiled (`chosen`), and the `reason` (see `hft_core.acceleration.decide`)."""
    train_batch_size: int = 0
    """Rows in a step, over all processes; 0 in results of older versions."""
    head_learning_rates: dict[str, float] = field(default_factory=dict)
    """Of each task's fresh head; empty in results of older versions."""
    best_reason: str = ""
    """Why `best_step` is not that of the highest dev score; empty where it is."""
    training: dict[str, TrainingFacts] = field(default_factory=dict)
    """By task; empty in results of older versions."""
    warnings: tuple[str, ...] = ()


def stage_result(value: Mapping[str, Any]) -> StageResult:
    """Convert back what `dataclasses.asdict` returned, after it was written as JSON."""
    lists = {name: tuple(value[name]) for name in ("tasks", "warnings")}
    history = tuple(Evaluation(**evaluation) for evaluation in value["history"])
    training = {task: TrainingFacts(**facts) for task, facts in value.get("training", {}).items()}
    return StageResult(**{**value, **lists, "history": history, "training": training})


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What an answer that ignores the text scores in a task's main metric."""

    value: float
    rows: int
    """Examples of the split."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    folder: Path | None
    final: dict[str, Scores]
    """Scores by split (`dev`, `test`), task and metric."""
    main_metrics: dict[str, str]
    """Each task's main metric."""
    base_lm_loss: dict[str, dict[str, float]]
    """Dev loss, `before` and `after`, of each self-supervised task whose head came trained, or was trained by an
    earlier stage: what was forgotten. `before` is that before the first stage at which the head was trained already."""
    stages: tuple[StageResult, ...]
    seconds: float
    """Wall time from opening the run (or resuming it) until its model was saved, with the scoring of the test split."""
    device: str
    precision: str
    precision_reason: str
    versions: dict[str, str]
    plugins: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = field(default=())
    by_label: dict[str, dict[str, LabelScores]] = field(default_factory=dict)
    """By split and task, of heads with labels: the test split, or the dev split of tasks without one."""
    floors: dict[str, dict[str, Floor]] = field(default_factory=dict)
    """By split and task: the score of an answer that ignores the text, of heads that have one (`Head.baseline`)."""
    pins: Pins = field(default_factory=Pins)
    """Digests of what the run was begun with, and what was accepted when it was resumed."""
    peak_memory: int = 0
    """The most memory in bytes that the process held, since it began: on the GPU where it computes there, in RAM
    otherwise; 0 where the system does not tell, and in results of older versions."""
    predicted_memory: int = 0
    """The same as predicted before the stages trained; 0 where these were small beside what is free, and in results of
    older versions."""
    greater_is_better: dict[str, bool] = field(default_factory=dict)
    """The direction of each task's main metric; empty in results of older versions."""

    calibration: dict[str, dict[str, CalibrationScores]] = field(default_factory=dict)
    """By split and task, of tasks with probabilities of one label a row; empty where no answers are kept."""
    decisions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By task, what was fitted to the dev rows: `temperature` and `thresholds` (`hft_core.head.Decision`)."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `results.json`: plain data, with null for numbers that are not finite."""
        value: dict[str, Any] = finite(asdict(self))
        del value["folder"]
        value["pins"] = self.pins.to_json()
        return value
