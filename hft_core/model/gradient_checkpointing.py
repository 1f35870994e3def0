"""Turn gradient checkpointing on or off: layers recompute their activations in the backward pass.

Takes less memory and about a third more time, with the same gradients: the second pass draws the dropout of the first.
Source: Chen et al. 2016 (arXiv:1604.06174), as implemented in transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hft_core.errors import RecipeError
from hft_core.model.hybrid import HybridModel
from hft_core.recipe.stage import Stage

SETTINGS = {"use_reentrant": False}
"""Of `torch.utils.checkpoint`: the variant that needs no gradient of the first layer's input."""


def set_for(stage: Stage, model: HybridModel) -> None:
    """Turn it on or off in the trunk as the stage says; after its strategy was applied.

    Raises `RecipeError` where the trunk has none, or the strategy does not go together with it.
    """
    trunk: Any = model.trunk
    if not stage.gradient_checkpointing:
        if any(getattr(module, "gradient_checkpointing", False) for module in trunk.modules()):
            _disable(trunk)
        return
    message = f"stage '{stage.name}': gradient_checkpointing is true, and"
    if not getattr(trunk, "supports_gradient_checkpointing", False):
        raise RecipeError(f"{message} the trunk ({type(trunk).__name__}) has none")
    if not model.strategy.recomputes:
        raise RecipeError(f"{message} its strategy gives the layers what is lost when they are computed again")
    _enable(trunk)


@contextmanager
def switched_off(model: HybridModel) -> Iterator[None]:
    """Keep all activations inside: the gradients are the same, and modes of torch that are active in the forward pass
    (such as one without dropout) are not when layers are computed again in the backward pass."""
    modules: list[Any] = [
        module for module in model.trunk.modules() if getattr(module, "gradient_checkpointing", False)
    ]
    for module in modules:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in modules:
            module.gradient_checkpointing = True


# transformers calls it activation checkpointing from 5.23 on.


def _enable(trunk: Any) -> None:
    if hasattr(trunk, "activation_checkpointing_enable"):
        trunk.activation_checkpointing_enable(activation_checkpointing_kwargs=SETTINGS)
    else:
        trunk.gradient_checkpointing_enable(gradient_checkpointing_kwargs=SETTINGS)
    # Only the reentrant variant needs the embeddings' gradient, with which frozen layers would have a backward pass.
    trunk.disable_input_require_grads()


def _disable(trunk: Any) -> None:
    if hasattr(trunk, "activation_checkpointing_disable"):
        trunk.activation_checkpointing_disable()
    else:
        trunk.gradient_checkpointing_disable()
