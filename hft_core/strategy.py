"""The contract of the strategy seam: which parameters train, what is injected into the trunk, what is saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from hft_core.backbone import Backbone

TaskRows = Sequence[tuple[str, slice]]
"""Which rows of a batch are whose: each task with the slice of its rows, in the order of the rows. Several tasks have
the same rows where they read the same texts and the strategy does not route rows."""


class Strategy:
    """Trains every trunk parameter: the identity among strategies, and the base of all others.

    Life in a stage: `apply` injects and sets `requires_grad`; `begin` tells the number of steps; each step calls
    `step_started`, `forward` (by way of `route`) for every batch, `penalty`, `gradients_ready` and, after the optimizer
    moved, `step_finished`; `fold` takes out what was injected before another stage follows.
    """

    learning_rate = 5e-5
    """Default for what trains in the trunk."""
    adapter = False
    """What trains is saved apart from the trunk (`save_adapter`), which keeps its weights."""
    plain = True
    """Plain PEFT opens what `save_adapter` writes."""
    virtual_tokens = 0
    """Positions of the trunk that `forward` takes for itself, so that texts must be shorter by so many."""
    generates = True
    """`Backbone.generate` goes by the strategy; false where only `forward` does."""
    recomputes = True
    """The trunk's layers may be computed again in the backward pass (gradient checkpointing); false where `forward`
    gives them something by a way that is closed then, such as a key-value cache."""
    divisible = True
    """The trunk's own weights may be divided among processes (FSDP); false where they are read outside of passes
    through the trunk (`penalty`). Gradients and changes that go weight by weight need no whole ones, and what the
    strategy added to the trunk is whole in every process."""
    common_layers = 0
    """Layers from the bottom in which what a row becomes does not depend on whose it is, nor in the embeddings; set by
    `apply`. Of strategies that route rows: a text of several tasks goes through these layers once, and then by way of
    `upper` on as a row for each task."""

    @property
    def routes_rows(self) -> bool:
        """What a row becomes depends on whose it is, so that a text of several tasks is a row for each of them; true
        where `route` is overridden. A strategy whose `forward` alone goes by the tasks overrides this too."""
        return type(self).route is not Strategy.route

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Set `requires_grad` on the trunk's parameters, and inject what the method adds.

        What may train at any time of the stage must require a gradient now. Raises `PluginError` when the method and
        the trunk do not go together.
        """
        backbone.trunk.requires_grad_(True)

    def private(self, backbone: Backbone) -> Mapping[str, Sequence[nn.Parameter]]:
        """By task, the trunk parameters that only this task's rows go through; all others are shared."""
        return {}

    def rate_factors(self, backbone: Backbone) -> Mapping[nn.Parameter, float]:
        """Factors on the trunk's learning rate; 1 for a parameter that is left out."""
        return {}

    # --- training

    def begin(self, backbone: Backbone, steps: int) -> None:
        """Told before the first step: the trunk will move in `steps` steps."""

    def step_started(self, backbone: Backbone, step: int) -> None:
        """Told before step `step` of those (0 for the first) is computed."""

    def route(self, backbone: Backbone, rows: TaskRows) -> None:
        """Told whose rows the next passes through the trunk will have, for strategies with private parts. It holds
        until it is told anew (a checkpointed layer is computed again in the backward pass)."""

    def in_training(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Return a context for the training steps of a stage, in which what was injected may use fast paths: other
        kernels for the same function (see `hft_core.forward_override`)."""
        return nullcontext()

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        """Hidden states `[batch, seq, hidden]` of a batch, in training and in evaluation."""
        self.route(backbone, rows)
        return backbone.forward(inputs)

    def upper(
        self, backbone: Backbone, hidden: Tensor, inputs: Mapping[str, Tensor], rows: TaskRows, depth: int
    ) -> Tensor:
        """The rest of `forward`, from what the first `depth` layers made of the batch: layers in which nothing trains,
        or the `common_layers`. A strategy with a `forward` or `route` of its own must have its own `upper` as well to
        be called so."""
        self.route(backbone, rows)
        return backbone.upper(hidden, inputs, depth)

    def penalty(self, backbone: Backbone) -> Tensor | None:
        """A scalar that is added to the step's combined loss."""
        return None

    def gradients_ready(self, backbone: Backbone, step: int) -> None:
        """Told when all gradients of step `step` are in `.grad`, before they are clipped; they may be changed."""

    def step_finished(self, backbone: Backbone, step: int) -> None:
        """Told after the optimizer moved in step `step`; the gradients are still there."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold for the stage to go on as if never stopped, beyond the trunk's parameters."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`, after `apply` and `begin`."""

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        """Fold what `apply` injected into the trunk's own weights: the trunk is as it was built, with other values."""

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        """The trunk's own weights by the names that it was built with, without what was injected."""
        return dict(backbone.trunk.state_dict())

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        """Write what `task` goes through beside the trunk into `folder`, in the format of its own library. Called where
        `adapter` is true.

        `base`: the model that the adapter belongs on; `plain_class`: the class that has trunk and head together, or
        empty; `head`: the weights to be saved with the adapter, by their names in that class.
        """
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to save one")

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Read back into the injected parts what `save_adapter` wrote; return the weights of those called `head`."""
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to load one")
