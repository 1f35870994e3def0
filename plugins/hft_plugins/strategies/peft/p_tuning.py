"""`p-tuning`: train virtual tokens through a small network, shared by all tasks.

The trunk reads [f(P); E(x)] with an MLP or LSTM f (Liu et al. 2021, arXiv:2103.10385). The trunk is frozen; P and f
train, and only f(P) is saved.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft.prompt_learning import PromptLearning
from hft_plugins.strategies.peft.short_form import VirtualTokensOptions


class Options(VirtualTokensOptions):
    """The usual fields of PEFT's `PromptEncoderConfig`."""

    name: ClassVar[str] = "p-tuning"
    method: ClassVar[str] = "P_TUNING"

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        default="MLP", description="network that computes the prompt; it is not saved"
    )
    encoder_hidden_size: int | None = Field(default=None, ge=1, description="its width; the trunk's by default")
    encoder_num_layers: int | None = Field(default=None, ge=1, description="layers of an LSTM")
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout between an LSTM's layers")


def build(options: Options) -> PromptLearning:
    """Build the strategy. Raises `PluginError` for what PEFT refuses."""
    return PromptLearning(options.configuration(), options.name)
