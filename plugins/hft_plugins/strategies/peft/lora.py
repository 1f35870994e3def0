"""`lora` and its variants: low-rank additions to the trunk's linear layers, one set shared by all tasks."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from hft_plugins.strategies.peft.named_method import OfLinearLayers
from hft_plugins.strategies.peft.named_method import build as build


class Options(OfLinearLayers):
    """The usual fields of PEFT's `LoraConfig`."""

    name: ClassVar[str] = "lora"
    method: ClassVar[str] = "LORA"
    alpha_by_rank: ClassVar[int] = 2

    r: int = Field(default=16, ge=1, description="rank of the additions")
    lora_alpha: int | None = Field(default=None, ge=1, description="scale of the additions; follows r when left out")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout before the additions")
    bias: Literal["none", "all", "lora_only"] = Field(default="none", description="which biases train as well")
    use_rslora: bool = Field(default=False, description="scale by alpha/√r instead of alpha/r (arXiv:2312.03732)")

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "lora_alpha": self.lora_alpha or self.alpha_by_rank * self.r}


class Dora(Options):
    """LoRA of the weights' directions, beside a length for each output."""

    name: ClassVar[str] = "dora"
    method: ClassVar[str] = "DORA"


class Rslora(Options):
    """LoRA whose scale does not shrink with the rank."""

    name: ClassVar[str] = "rslora"
    use_rslora: Literal[True] = Field(default=True, description="scale by alpha/√r instead of alpha/r")


class Pissa(Options):
    """LoRA that begins with the principal singular vectors of each weight; its scale is 1, as in the paper."""

    name: ClassVar[str] = "pissa"
    method: ClassVar[str] = "PISSA"
    alpha_by_rank: ClassVar[int] = 1


class Olora(Options):
    """LoRA that begins with the QR decomposition of each weight."""

    name: ClassVar[str] = "olora"
    method: ClassVar[str] = "OLORA"
