"""`prefix`: train keys and values in front of every layer's own, shared by all tasks.

attention(Q, [P_k; K], [P_v; V]) in each layer (Li and Liang 2021, arXiv:2101.00190). The trunk is frozen; P_k and P_v,
`num_virtual_tokens` keys and values per layer, train.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from hft_plugins.strategies.peft.prompt_learning import PromptLearning
from hft_plugins.strategies.peft.short_form import VirtualTokensOptions


class Options(VirtualTokensOptions):
    """The usual fields of PEFT's `PrefixTuningConfig`."""

    name: ClassVar[str] = "prefix"
    method: ClassVar[str] = "PREFIX_TUNING"

    prefix_projection: bool = Field(default=False, description="compute the prefix by an MLP, which is not saved")
    encoder_hidden_size: int | None = Field(default=None, ge=1, description="width of that MLP; the trunk's by default")


def build(options: Options) -> PromptLearning:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return PromptLearning(options.configuration(), options.name)
