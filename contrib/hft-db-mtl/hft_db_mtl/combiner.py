"""`db-mtl`: log losses, and gradients averaged over the steps and brought to the length of the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from hft_core import options
from hft_core.combiner import At, Combiner

EPS = 1e-8
"""Of the paper: added to each loss."""
SHORTEST = 1e-12
"""A gradient shorter than this share of the longest is not stretched to its length. (The paper adds EPS to each length,
which the gradient of the logarithm of a loss in the millions can be shorter than.)"""


class Options(options.Options):
    """Where the gradients are taken, and the decay of their moving average."""

    at: At = Field(
        default="shared",
        description="whose gradients: those of all `shared` parameters that train (the paper's), or those of the "
        "trunk's `representation`, its last hidden states (one backward pass through the trunk for all tasks)",
    )
    beta: float = Field(
        default=0.9, ge=0, lt=1, description="share of the earlier steps in the moving average of a task's gradients"
    )
    beta_sigma: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="the share in a task's step k is beta/k^beta_sigma: how fast the average follows at the end",
    )


class DualBalancing(Combiner):
    """Σ_t max_i |a_i| / |a_t| · a_t with a_t the moving average of the gradients of log(loss_t),

        a_t ← b·a_t + (1 − b)·∇log(loss_t),  b = beta/k^beta_sigma in the task's step k.

    A task that is absent from a step keeps its average and takes no part in the sum. A loss of 0 or below has no
    logarithm and moves nothing. When other parameters begin to train, the averages begin anew.

    The part of the averages that earlier steps left goes through the factors on this step's gradients, so that it acts
    on every component that has a gradient from some task now; in the others (the embedding of a word that is not in the
    batch) it waits. `at` the representation each step has other rows, and the averages decide the lengths only.

    What only one task trains keeps the gradient of the loss itself: the paper's is that times 1/loss_t, a length that
    AdamW takes out again.

    Source: Lin et al. 2023, arXiv:2308.12029, algorithm 1, and LibMTL's `DB_MTL`.
    """

    per_task_gradients = True
    averages: Tensor
    """`[tasks, p]` the moving averages; `[tasks, 0]` until the first step, and always where beta is 0."""
    steps: Tensor
    """`[tasks]` how many steps each task was in since the averages began."""

    def __init__(self, tasks: tuple[str, ...], *, at: At, beta: float, beta_sigma: float) -> None:
        super().__init__(tasks)
        self.at, self.beta, self.beta_sigma = at, beta, beta_sigma
        self.register_buffer("averages", torch.zeros(len(tasks), 0))
        self.register_buffer("steps", torch.zeros(len(tasks), dtype=torch.long))
        self.register_load_state_dict_pre_hook(_of_the_size_that_is_loaded)  # type: ignore[no-untyped-call]

    def weigh(self, gradients: Tensor, losses: Tensor, present: Tensor) -> Tensor:
        gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
        # A step that is not finite will be skipped, and must not be remembered.
        if not bool(torch.isfinite(gradients).all() & torch.isfinite(losses).all()):
            return torch.ones_like(losses)
        slopes = torch.where(losses > 0, 1 / (losses + EPS), 0.0).to(gradients)
        if self.beta == 0:
            return slopes * _stretch(slopes.unsqueeze(1) * gradients)
        before, share = self._remembered(gradients, present)
        averages = torch.lerp(slopes.unsqueeze(1) * gradients, before, share.unsqueeze(1))
        self.averages[present] = averages.to(self.averages)
        stretch = _stretch(averages)
        if self.at == "representation":
            return slopes * stretch
        return _with_rest(stretch * (1 - share) * slopes, (stretch * share) @ before, gradients)

    def _remembered(self, gradients: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the present tasks' averages `[t, p]` before this step, and their weights `[t]` in those after it."""
        if self.averages.shape[1] != gradients.shape[1]:  # first step, or other parameters train from now on
            self.averages = self.averages.new_zeros(len(self.tasks), gradients.shape[1])
            self.steps.zero_()
        self.steps[present] += 1
        share = self.beta / self.steps[present].to(gradients) ** self.beta_sigma
        return self.averages[present].to(gradients), share


def _stretch(gradients: Tensor) -> Tensor:
    """Return the factors `[t]` that bring each gradient to the norm of the largest."""
    lengths = torch.linalg.vector_norm(gradients, dim=1)
    longest = lengths.max()
    stretch: Tensor = longest / lengths.clamp(min=longest * SHORTEST).clamp(min=torch.finfo(lengths.dtype).tiny)
    return stretch


def _with_rest(own: Tensor, rest: Tensor, gradients: Tensor) -> Tensor:
    """`[t, p]`: factors whose weighted sum of `gradients` is that of the factors `own` `[t]`, plus `rest` `[p]`.

    Of all such factors the nearest to `own`: each component of `rest` is divided in proportion to the gradients there.
    """
    squared = gradients.square().sum(dim=0)
    per_unit = torch.where(squared > torch.finfo(squared.dtype).tiny, gradients / squared, 0.0)
    return own.unsqueeze(1) + rest * per_unit


def _of_the_size_that_is_loaded(module: torch.nn.Module, state: Mapping[str, Any], prefix: str, *rest: object) -> None:
    """The averages have no size before the first step; what is loaded has one."""
    loaded = state.get(f"{prefix}averages")
    if loaded is not None and isinstance(module, DualBalancing):
        module.averages = torch.empty_like(loaded, device=module.averages.device)


def build(options: Options, *, tasks: Sequence[str]) -> DualBalancing:
    return DualBalancing(tuple(tasks), at=options.at, beta=options.beta, beta_sigma=options.beta_sigma)
