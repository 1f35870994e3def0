"""The contract of the strategy seam: which parameters train, what is injected into the trunk, what is saved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from hft_core.backbone import Backbone


class Strategy:
    """Trains every trunk parameter: the identity among strategies, and the base of all others.

    The core calls `apply` when a stage begins and `fold` when another stage follows; between the two, the trunk's
    `requires_grad` flags say what trains.
    """

    learning_rate = 5e-5
    """Default for what trains in the trunk."""
    adapter = False
    """What trains is saved apart from the trunk (`save_adapter`), which keeps its weights."""

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Set `requires_grad` on the trunk's parameters, and inject what the method adds."""
        backbone.trunk.requires_grad_(True)

    def fold(self, backbone: Backbone) -> None:
        """Fold what `apply` injected into the trunk's own weights: the trunk is as it was built, with other values."""

    def base_state(self, backbone: Backbone) -> dict[str, Tensor]:
        """The trunk's own weights by the names that it was built with, without what was injected."""
        return dict(backbone.trunk.state_dict())

    def save_adapter(
        self, backbone: Backbone, folder: Path, base: str, plain_class: str, head: Mapping[str, Tensor]
    ) -> None:
        """Write what was injected into `folder` in the format of its own library. Called where `adapter` is true.

        `base`: the model that the adapter belongs on; `plain_class`: the class that has trunk and head together, or
        empty; `head`: the weights to be saved with the adapter, by their names in that class.
        """
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to save one")

    def load_adapter(self, backbone: Backbone, folder: Path, head: Collection[str]) -> dict[str, Tensor]:
        """Read back into the injected parts what `save_adapter` wrote; return the weights of those called `head`."""
        raise NotImplementedError(f"{type(self).__name__} sets `adapter` and does not say how to load one")
