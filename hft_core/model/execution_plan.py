"""Describe how the model computes in a stage: which work is skipped, cached, shared or done by a fast path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hft_core.batching.batch import Batch
from hft_core.model.activation_store import Store
from hft_core.strategy import Strategy


@dataclass(frozen=True, eq=False)
class FrozenPrefix:
    """The longest prefix of a trunk's layers in which no parameter is trainable."""

    depth: int = 0
    """Layers from the bottom; there is no trainable parameter below them either."""
    modules: tuple[nn.Module, ...] = ()
    """All modules of the prefix."""

    def eval(self) -> None:
        """Put the modules into evaluation mode: dropout would only add noise to what cannot adapt to it."""
        for module in self.modules:
            module.training = False


@dataclass(frozen=True, kw_only=True)
class ExecutionChoices:
    """What of an `ExecutionPlan` was chosen by a trial on a machine. A checkpoint records it, and its stage is resumed
    with the same choices on any machine."""

    cached: bool
    """Whether activations are cached."""
    shared_depth: int
    one_pass: bool
    compiled: bool
    fast_kernels: tuple[str, ...]
    reasons: Mapping[str, str]
    warnings: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExecutionChoices:
        """Convert back what `dataclasses.asdict` returned, after it was written as JSON."""
        lists = {name: tuple(value[name]) for name in ("fast_kernels", "warnings")}
        return cls(**{**value, **lists})


@dataclass(frozen=True, eq=False, kw_only=True)
class ExecutionPlan:
    """How passes through the model are computed; decided once for a stage (`hft_core.acceleration.decide`).

    Whatever it says, hidden states and gradients are those of the plain path up to rounding.
    """

    strategy: Strategy | None = None
    """The one that the plan was decided for; None where the plan holds under any."""
    frozen: FrozenPrefix = FrozenPrefix()
    store: Store | None = None
    """Cached hidden states of the frozen prefix; None where activations are not cached."""
    shared_depth: int = 0
    """Layers from the bottom that a text passes once for all tasks of a batch, under a strategy that routes rows."""
    one_pass: bool = False
    """Per-task gradients come from one backward pass over the rows of all tasks (`hft_core.gradients.one_pass`)."""
    compiled: bool = False
    """The trunk's layers run compiled code while they train (`hft_core.acceleration.compile`)."""
    fast_kernels: tuple[str, ...] = ()
    """Whose fast paths are used in training steps (`hft_core.acceleration.fast_paths.KERNELS`)."""
    bfloat16_weights: tuple[nn.Parameter, ...] = ()
    """Frozen weights that are held in bfloat16 (`hft_core.model.frozen_weights`)."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why, for people, by the name of the field."""
    warnings: tuple[str, ...] = ()
    """What was asked for and could not be done."""

    def choices(self) -> ExecutionChoices:
        """Return what a checkpoint records of the plan."""
        return ExecutionChoices(
            cached=self.store is not None,
            shared_depth=self.shared_depth,
            one_pass=self.one_pass,
            compiled=self.compiled,
            fast_kernels=self.fast_kernels,
            reasons=self.reasons,
            warnings=self.warnings,
        )

    def with_stored(self, batch: Batch) -> Batch:
        """The batch with the cached hidden states of its rows; before it is moved to a device."""
        return batch if self.store is None else self.store.put_into(batch)


PLAIN = ExecutionPlan()
"""Every pass goes through all layers, for every row, with torch's own kernels."""
