"""`peft`: any method of PEFT, by PEFT's own name and fields."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from hft_core import options
from hft_plugins.strategies.peft import methods
from hft_plugins.strategies.peft.injected import Injected


class Options(options.Options):
    """A method, and any fields of its PEFT configuration, with PEFT's defaults."""

    model_config = ConfigDict(extra="allow")

    method: str = Field(description="PEFT's name of the method (LORA, IA3, …), in any spelling")

    @model_validator(mode="after")
    def _known_to_peft(self) -> Options:
        methods.configuration(self.method, self.fields())
        return self

    @property
    def merges(self) -> bool:
        """Whether another stage may follow."""
        return methods.merges(methods.configuration(self.method, self.fields()))

    def fields(self) -> dict[str, Any]:
        """Those of the configuration."""
        return dict(self.model_extra or {})


def build(options: Options) -> Injected:
    return methods.strategy("peft", methods.configuration(options.method, options.fields()))
