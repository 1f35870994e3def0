"""The state of a run as a checkpoint holds it, except for tensors: typed values that convert to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hft_core.data.streamed_examples import StreamPlace
from hft_core.device.precision import Precision
from hft_core.model.execution_plan import ExecutionChoices
from hft_core.pins import Pins, Place
from hft_core.results import Scores, StageResult, stage_result
from hft_core.training.progress import Progress


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What all checkpoints of a run have in common."""

    precision: Precision
    pins: Pins
    """Digests of what the run was begun with."""
    place: Place
    """Where it was computed."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each task's head learned from the training rows (`Head.facts`)."""
    notes: list[str] = field(default_factory=list)
    """Warnings about earlier resumes, to be repeated in the results."""


@dataclass(frozen=True, kw_only=True)
class StageState:
    """What all checkpoints of a stage have in common."""

    index: int
    """0 for the first stage."""
    finished: list[StageResult]
    """The results of the stages before it."""
    trunk_changed: bool
    """Whether earlier stages updated the trunk's own weights."""
    scores_before: Scores
    """Dev scores before its first step."""
    execution: ExecutionChoices
    """How it computes: what was chosen by trials on the machine that it began on."""


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """Where the training loop of a stage is."""

    progress: Progress
    schedule: dict[str, Any]
    """`state_dict` of the learning rate schedule."""
    learning_rates: list[float]
    """Of each parameter group of the optimizer."""
    proportion_changes: list[tuple[int, dict[str, float]]]
    """Changes to the sampling proportions: after which step, and each task's factor."""
    adaptive_mixture: dict[str, dict[str, Any]]
    """State of `hft_core.batching.mixture.AdaptiveMixture`."""
    streams: dict[str, StreamPlace] = field(default_factory=dict)
    """Where the streams of the stage are, by task."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The state of a run after a step: with the checkpoint's tensors, all that resuming needs."""

    run: RunState
    stage: StageState
    loop: LoopState
    random: dict[str, Any]
    """States of the random number generators that are no tensors (see `hft_core.runtime.random_state`)."""
    log_size: int
    """Bytes of the log file written so far."""

    def to_json(self) -> dict[str, Any]:
        """Convert to values that JSON can hold."""
        value = asdict(self)
        value["run"]["pins"] = self.run.pins.to_json()
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingState:
        """Convert back what `to_json` returned, after it was written as JSON."""
        run, stage, loop = value["run"], value["stage"], value["loop"]
        return cls(
            run=RunState(
                precision=Precision(**run["precision"]),
                pins=Pins.from_json(run["pins"]),
                place=Place(**run["place"]),
                facts=run["facts"],
                notes=run["notes"],
            ),
            stage=StageState(
                **{
                    **stage,
                    "finished": [stage_result(result) for result in stage["finished"]],
                    "execution": ExecutionChoices.from_json(stage["execution"]),
                }
            ),
            loop=LoopState(
                **{
                    **loop,
                    "progress": Progress.from_json(loop["progress"]),
                    "streams": {task: StreamPlace.from_json(place) for task, place in loop["streams"].items()},
                    "proportion_changes": [(step, factors) for step, factors in loop["proportion_changes"]],
                }
            ),
            random=value["random"],
            log_size=value["log_size"],
        )
