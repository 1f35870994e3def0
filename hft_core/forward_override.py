"""Replace the `forward` of modules for a time, without wrapping or moving them.

Names in states and saved files stay, and hooks run around the replacement. Of nested overrides of one module the
innermost is called. In a training stage they are nested in this order, from the outside in:

1. compiled layers, or else fast dropout (`hft_core.cpu_dropout`) with 2 and 3;
2. fast paths of the backbone (`Backbone.in_training`);
3. fast paths of the strategy (`Strategy.in_training`);
4. layers that collect per-task gradients, for one pass;
5. layers that are skipped in a partial pass (`Backbone.lower`, `Backbone.upper`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def is_overridden(module: nn.Module) -> bool:
    """Tell whether calling the module calls something else than the `forward` of its class."""
    return "forward" in vars(module)


@contextmanager
def override_forward(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Call `forwards[module]` in place of the `forward` of each module inside the context.

    Each module has its earlier `forward` again afterwards, also after an error.
    """
    earlier = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, before in earlier.items():
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before
