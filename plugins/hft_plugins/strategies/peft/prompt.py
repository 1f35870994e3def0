"""`prompt`: train embeddings of virtual tokens in front of every text, shared by all tasks.

The trunk reads [P; E(x)] (Lester et al. 2021, arXiv:2104.08691). The trunk is frozen; P `[num_virtual_tokens, hidden]`
trains.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft.prompt_learning import PromptLearning
from hft_plugins.strategies.peft.short_form import VirtualTokensOptions


class Options(VirtualTokensOptions):
    """The usual fields of PEFT's `PromptTuningConfig`."""

    name: ClassVar[str] = "prompt"
    method: ClassVar[str] = "PROMPT_TUNING"

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = Field(
        default="SAMPLE_VOCAB", description="initialization: random, from random vocabulary entries, or from a text"
    )
    prompt_tuning_init_text: str | None = Field(default=None, description="text of the initialization")


def build(options: Options) -> PromptLearning:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return PromptLearning(options.configuration(), options.name)
