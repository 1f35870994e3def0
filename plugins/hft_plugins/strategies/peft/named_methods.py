"""The short forms beside those of LoRA: options with PEFT's names, and defaults that fit any trunk."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft.named_method import Modules, OfLinearLayers, ShortForm
from hft_plugins.strategies.peft.named_method import build as build


class Adalora(OfLinearLayers):
    """The usual fields of PEFT's `AdaLoraConfig`."""

    name: ClassVar[str] = "adalora"
    method: ClassVar[str] = "ADALORA"

    init_r: int = Field(default=12, ge=2, description="rank of every addition at first")
    target_r: int = Field(default=8, ge=1, description="mean rank of the additions in the end")
    tinit: int = Field(default=0, ge=0, description="steps before ranks are reduced")
    tfinal: int = Field(default=0, ge=0, description="steps at the end in which ranks stay as they are")
    deltaT: int = Field(default=1, ge=1, description="steps between two reductions")  # noqa: N815  # PEFT's name
    orth_reg_weight: float = Field(default=0.5, ge=0, description="weight of the orthogonal regularisation")
    lora_alpha: int = Field(default=32, ge=1, description="scale of the additions")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")


class Vera(OfLinearLayers):
    """The usual fields of PEFT's `VeraConfig`."""

    name: ClassVar[str] = "vera"
    method: ClassVar[str] = "VERA"

    r: int = Field(default=256, ge=1, description="rank of the random matrices that all layers share")
    vera_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    d_initial: float = Field(default=0.1, description="first value of the vector between the matrices")
    projection_prng_key: int = Field(default=0, description="seed of the random matrices")


class Randlora(OfLinearLayers):
    """The usual fields of PEFT's `RandLoraConfig`."""

    name: ClassVar[str] = "randlora"
    method: ClassVar[str] = "RANDLORA"

    r: int = Field(default=32, ge=1, description="rank of each random basis; a lower one means more of them")
    randlora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; PEFT's when left out")
    randlora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    projection_prng_key: int = Field(default=0, description="seed of the random bases")


class Fourierft(OfLinearLayers):
    """The usual fields of PEFT's `FourierFTConfig`."""

    name: ClassVar[str] = "fourierft"
    method: ClassVar[str] = "FOURIERFT"

    n_frequency: int = Field(default=1000, ge=1, description="frequencies that train in each layer")
    scaling: float = Field(default=150.0, gt=0, description="scale of the additions")
    init_weights: bool = Field(default=False, description="begin with additions of zero, not with random ones")
    random_loc_seed: int = Field(default=777, description="seed of which frequencies train")


class Miss(OfLinearLayers):
    """The usual fields of PEFT's `MissConfig`."""

    name: ClassVar[str] = "miss"
    method: ClassVar[str] = "MISS"

    r: int = Field(default=64, ge=1, description="rank of the shards along the inputs")
    mini_r: int = Field(default=1, ge=1, description="rank along the outputs")
    miss_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")


class Oft(OfLinearLayers):
    """The usual fields of PEFT's `OFTConfig`."""

    name: ClassVar[str] = "oft"
    method: ClassVar[str] = "OFT"

    oft_block_size: int = Field(default=32, ge=2, description="size of the orthogonal blocks")
    module_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of blocks left out while training")
    coft: bool = Field(default=False, description="keep the rotations small")
    block_share: bool = Field(default=False, description="one block for all of a layer")


class Boft(OfLinearLayers):
    """The usual fields of PEFT's `BOFTConfig`."""

    name: ClassVar[str] = "boft"
    method: ClassVar[str] = "BOFT"

    boft_block_size: int = Field(default=4, ge=2, description="size of the orthogonal blocks")
    boft_n_butterfly_factor: int = Field(default=1, ge=1, description="butterfly factors; more mix wider")
    boft_dropout: float = Field(default=0.0, ge=0, lt=1, description="share of blocks left out while training")


class Ia3(ShortForm):
    """The usual fields of PEFT's `IA3Config`."""

    name: ClassVar[str] = "ia3"
    method: ClassVar[str] = "IA3"

    target_modules: Modules | None = Field(
        default=None, description="layers to rescale; PEFT's choice for the model, or all linear ones, when left out"
    )
    feedforward_modules: Modules | None = Field(
        default=None, description="those of them that are rescaled by their input instead of their output"
    )


class Ln(ShortForm):
    """The usual fields of PEFT's `LNTuningConfig`."""

    name: ClassVar[str] = "ln"
    method: ClassVar[str] = "LN_TUNING"

    target_modules: Modules | None = Field(default=None, description="norms to train; all of them when left out")


class OfVirtualTokens(ShortForm):
    """A prompt of virtual tokens."""

    num_virtual_tokens: int = Field(default=20, ge=1, description="virtual tokens; they take positions of the trunk")


class Prefix(OfVirtualTokens):
    """The usual fields of PEFT's `PrefixTuningConfig`."""

    name: ClassVar[str] = "prefix"
    method: ClassVar[str] = "PREFIX_TUNING"

    prefix_projection: bool = Field(default=False, description="make the prefix by an MLP, which is not kept")
    encoder_hidden_size: int | None = Field(default=None, ge=1, description="width of that MLP; the trunk's by default")


class Prompt(OfVirtualTokens):
    """The usual fields of PEFT's `PromptTuningConfig`."""

    name: ClassVar[str] = "prompt"
    method: ClassVar[str] = "PROMPT_TUNING"

    prompt_tuning_init: Literal["RANDOM", "SAMPLE_VOCAB", "TEXT"] = Field(
        default="SAMPLE_VOCAB", description="begin with noise, with words drawn at random, or with a text"
    )
    prompt_tuning_init_text: str | None = Field(default=None, description="the text to begin with")


class Ptuning(OfVirtualTokens):
    """The usual fields of PEFT's `PromptEncoderConfig`."""

    name: ClassVar[str] = "p-tuning"
    method: ClassVar[str] = "P_TUNING"

    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        default="MLP", description="what makes the prompt; it is not kept"
    )
    encoder_hidden_size: int | None = Field(default=None, ge=1, description="its width; the trunk's by default")
    encoder_num_layers: int | None = Field(default=None, ge=1, description="layers of an LSTM")
    encoder_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout between an LSTM's layers")
