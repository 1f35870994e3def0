"""`peft`: train by any method of PEFT, with PEFT's own name and fields."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from hft_core import options
from hft_plugins.strategies.peft.adalora import AdaLora
from hft_plugins.strategies.peft.configuration import configuration, converts, merges
from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.prompt_learning import PromptLearning
from hft_plugins.strategies.peft.svd_initialized import Converted


class Options(options.Options):
    """A method, and any fields of its PEFT configuration, with PEFT's defaults."""

    model_config = ConfigDict(extra="allow")

    method: str = Field(description="PEFT's name of the method (LORA, IA3, …), in any spelling")

    @model_validator(mode="after")
    def _known_to_peft(self) -> Options:
        configuration(self.method, self.fields())
        return self

    @property
    def merges(self) -> bool:
        """Tell whether another stage may follow."""
        return merges(configuration(self.method, self.fields()))

    def fields(self) -> dict[str, Any]:
        """Return the fields of the PEFT configuration that are set."""
        return dict(self.model_extra or {})


def build(options: Options) -> Injected:
    """Build the strategy for the kind of the method."""
    config = configuration(options.method, options.fields())
    kind: type[Injected] = Injected
    if config.is_prompt_learning:
        kind = PromptLearning
    elif config.peft_type == "ADALORA":
        kind = AdaLora
    elif converts(config):
        kind = Converted
    return kind(config, "peft")
