"""The contract of the strategy seam: which parameters of the trunk train, what is injected, what is saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from hft_core.backbone import Backbone

TaskRows = Sequence[tuple[str, slice]]
"""The tasks of a batch, each with the slice of its rows, in the order of the rows. Tasks with shared inputs have the
same rows if the strategy does not route rows."""


class Strategy:
    """Train every parameter of the trunk; the base class of all strategies.

    Life cycle in a stage: `apply` injects modules and sets `requires_grad`; `begin` receives the number of steps; each
    step calls `step_started`, `forward` (which calls `route`) for every batch, `penalty`, `gradients_ready` and, after
    the optimizer step, `step_finished`; `fold` merges what was injected before another stage follows.
    """

    learning_rate = 5e-5
    """Default for the trainable parameters of the trunk."""
    adapter = False
    """Trained parameters are saved separately (`save_adapter`); the trunk's own weights are unchanged."""
    plain = True
    """PEFT alone loads what `save_adapter` writes."""
    virtual_tokens = 0
    """Positions of the trunk that `forward` uses for virtual tokens; the limit for texts is lower by as many."""
    generates = True
    """`Backbone.generate` applies the strategy; false if only `forward` does."""
    recomputes = True
    """The trunk's layers may be recomputed in the backward pass (gradient checkpointing); false if `forward` passes
    them something that is not recomputed, such as a key-value cache."""
    divisible = True
    """The trunk's own weights may be sharded among processes (FSDP); false if they are read outside the trunk's forward
    (`penalty`). Elementwise reads and updates work on shards; parameters that the strategy added are not sharded."""
    common_layers = 0
    """Number of lowest layers that, like the embeddings, compute the same for every task; set by `apply`. Of strategies
    that route rows: a text of several tasks is encoded once in these layers, then by `upper` as one row per task."""

    @property
    def routes_rows(self) -> bool:
        """Whether the computation depends on the task of a row, so that a text of several tasks needs one row per task.

        True if `route` is overridden. A strategy whose `forward` depends on the tasks without `route` overrides this
        too.
        """
        return type(self).route is not Strategy.route

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Set `requires_grad` on the trunk's parameters, and inject what the method adds.

        Parameters that train at any time of the stage must require a gradient now. Raises `PluginError` when the method
        does not fit the trunk.
        """
        backbone.trunk.requires_grad_(True)

    def private(self, backbone: Backbone) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return, by task, the parameters of the trunk that only this task's rows use; all others are shared."""
        return {}

    def rate_factors(self, backbone: Backbone) -> Mapping[nn.Parameter, float]:
        """Return factors on the trunk's learning rate by parameter; 1 for a parameter that is left out."""
        return {}

    # --- training

    def begin(self, backbone: Backbone, steps: int) -> None:
        """Prepare for `steps` steps that update the trunk; called before the first one."""

    def step_started(self, backbone: Backbone, step: int) -> None:
        """Prepare for step `step` of those (0 for the first); called before it is computed."""

    def route(self, backbone: Backbone, rows: TaskRows) -> None:
        """Set the routing for subsequent forward passes; it holds until the next call.

        For strategies with per-task parts. Gradient checkpointing recomputes layers in the backward pass, so the
        routing must not be reset after the forward pass.
        """

    def in_training(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Return a context for the training steps of a stage, in which what was injected may use fast paths: other
        kernels for the same function (see `hft_core.forward_override`)."""
        return nullcontext()

    def forward(self, backbone: Backbone, inputs: Mapping[str, Tensor], rows: TaskRows) -> Tensor:
        """Compute the hidden states `[batch, seq, hidden]` of a batch, in training and evaluation."""
        self.route(backbone, rows)
        return backbone.forward(inputs)

    def upper(
        self, backbone: Backbone, hidden: Tensor, inputs: Mapping[str, Tensor], rows: TaskRows, depth: int
    ) -> Tensor:
        """Continue `forward` from `hidden` `[batch, seq, hidden]`, the output of the first `depth` layers.

        These are frozen, or the `common_layers`. A strategy that overrides `forward` or `route` is called so only if it
        overrides `upper` as well.
        """
        self.route(backbone, rows)
        return backbone.upper(hidden, inputs, depth)

    def penalty(self, backbone: Backbone) -> Tensor | None:
        """Return a scalar that is added to the step's combined loss; None for none."""
        return None

    def gradients_ready(self, backbone: Backbone, step: int) -> None:
        """Observe or change the gradients of step `step`, which are in `.grad` and not clipped yet."""

    def step_finished(self, backbone: Backbone, step: int) -> None:
        """React to the optimizer step `step`; the gradients are still in `.grad`."""

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beyond the trunk's parameters, so that a resumed stage is
        bit-identical."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state`; called after `apply` and `begin`."""

    # --- afterwards

    def fold(self, backbone: Backbone) -> None:
        """Merge what `apply` injected into the trunk's own weights; the trunk then has the modules that it was built
        with.

        Raises `PluginError` when the method cannot be merged.
        """

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        """Return the trunk's own weights under the names that it was built with, without what was injected."""
        return dict(backbone.trunk.state_dict())

    def save_adapter(
        self, backbone: Backbone, task: str, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        """Write the parameters that `task` uses besides the trunk into `folder`. Called if `adapter` is true.

        `base`: the model that the adapter belongs to; `plain_class`: the transformers class that has trunk and head, or
        empty; `head`: the weights to save with the adapter, under their names in that class.
        """
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to save one")

    def load_adapter(self, backbone: Backbone, task: str, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Load what `save_adapter` wrote into the injected modules; return the weights named in `head`.

        Raises `ValueError` when the weights do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to load one")
