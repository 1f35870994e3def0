"""Short forms: strategies that are one method of PEFT with its usual fields."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from hft_core import options
from hft_core.errors import PluginError
from hft_plugins.strategies.peft import methods
from hft_plugins.strategies.peft.injected import Injected

Modules = str | tuple[str, ...]
"""Names of modules, a regular expression, or `all-linear`, as PEFT takes them."""


class ShortForm(options.Options):
    """Options that are fields of a PEFT configuration; those left at None are left to PEFT."""

    name: ClassVar[str]
    """Of the strategy."""
    method: ClassVar[str]
    """As PEFT or `peft_methods.ALIASES` call it."""

    def fields(self) -> dict[str, Any]:
        """Those of the configuration."""
        return self.model_dump(exclude_none=True)


class OfLinearLayers(ShortForm):
    """A method that adapts linear layers."""

    target_modules: Modules = Field(
        default="all-linear", description="names of the linear layers to adapt, a regular expression, or 'all-linear'"
    )


def build(options: ShortForm) -> Injected:
    """The strategy of a short form. Raises `PluginError` for what PEFT refuses."""
    try:
        config = methods.configuration(options.method, options.fields())
    except ValueError as error:
        raise PluginError(f"strategy '{options.name}': {error}") from error
    return methods.strategy(options.name, config)
