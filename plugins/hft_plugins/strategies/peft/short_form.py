"""Options of strategies that are one method of PEFT with its usual fields, under PEFT's names."""

from __future__ import annotations

from typing import Any, ClassVar

from peft import PeftConfig
from pydantic import Field

from hft_core import options
from hft_core.errors import PluginError
from hft_plugins.strategies.peft.configuration import configuration

Modules = str | tuple[str, ...]
"""Names of modules, a regular expression, or `all-linear`, as PEFT takes them."""


class ShortForm(options.Options):
    """Options that are fields of a PEFT configuration; PEFT's default holds for those left at None."""

    name: ClassVar[str]
    """The strategy's name in recipes."""
    method: ClassVar[str]
    """The method, as PEFT or `configuration.ALIASES` call it."""

    def fields(self) -> dict[str, Any]:
        """Return the fields of the PEFT configuration that are set."""
        return self.model_dump(exclude_none=True)

    def configuration(self) -> PeftConfig:
        """Build PEFT's configuration. Raises `PluginError` for what PEFT refuses."""
        try:
            return configuration(self.method, self.fields())
        except ValueError as error:
            raise PluginError(f"strategy '{self.name}': {error}") from error


class LinearLayersOptions(ShortForm):
    """Options of a method that adapts linear layers."""

    target_modules: Modules = Field(
        default="all-linear", description="names of the linear layers to adapt, a regular expression, or 'all-linear'"
    )


class VirtualTokensOptions(ShortForm):
    """Options of a method that trains virtual tokens."""

    num_virtual_tokens: int = Field(default=20, ge=1, description="virtual tokens; they take positions of the trunk")
