"""Describe which layers of a trunk are frozen, and which ones tasks share, as the forward pass needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hft_core.strategy import Strategy


@dataclass(frozen=True, eq=False)
class Frozen:
    """The part of a trunk that stands still."""

    depth: int = 0
    """Layers from the bottom in which nothing trains, nor below them."""
    layers: int = 0
    """Those of the trunk in all."""
    modules: tuple[nn.Module, ...] = ()
    """What the pass goes through up to there. It is in evaluation mode in training too: dropout would only add noise to
    what cannot adapt to it."""

    def settle(self) -> None:
        """Put the part into evaluation mode."""
        for module in self.modules:
            module.training = False


NOTHING = Frozen()


@dataclass(frozen=True, eq=False)
class Common:
    """What was found out."""

    strategy: Strategy | None = None
    """It holds under this one."""
    depth: int = 0
    """Layers from the bottom."""


UNKNOWN = Common()
