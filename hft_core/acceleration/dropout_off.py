"""Turn dropout off in training mode, so that two passes can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hft_core import cpu_dropout

_DROPOUTS: tuple[Callable[..., Any], ...] = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
)


class _Identity(TorchFunctionMode):
    """Return the input of a dropout as it is; attention drops no weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else given["input"]
        if func is functional.scaled_dot_product_attention:
            args, given = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**given}
            if "dropout_p" in given:
                given["dropout_p"] = 0.0
        return func(*args, **given)


@contextmanager
def dropout_off() -> Iterator[None]:
    """Drop nothing inside, in whichever mode modules are; fast paths for dropout are used where they would be."""
    with _Identity(), cpu_dropout.keeping_all():
        yield
