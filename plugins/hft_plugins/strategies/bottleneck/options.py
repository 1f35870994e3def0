"""The options that all strategies with bottleneck adapters have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from transformers.activations import ACT2FN

from hft_core import options
from hft_core.errors import did_you_mean

DEFAULTS: dict[Any, dict[str, Any]] = {
    "houlsby": {"mh_adapter": True, "non_linearity": "gelu"},
    "parallel": {"reduction_factor": 2.0, "scaling": 4.0},
}
"""What a kind sets where the recipe does not; `pfeiffer` is the fields' own defaults."""


class Options(options.Options):
    """Options of bottleneck adapters, by the names of the `adapters` library."""

    kind: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        default="pfeiffer",
        description="houlsby: after attention and feed-forward, inside the residual; pfeiffer: after the layer; "
        "parallel: beside the feed-forward block",
    )
    reduction_factor: float = Field(
        default=16.0, ge=1, description="hidden size divided by bottleneck size; 2 for parallel when left out"
    )
    bottleneck_size: int | None = Field(default=None, ge=1, description="overrides reduction_factor")
    non_linearity: str = Field(
        default="relu", description="any activation of transformers; gelu for houlsby when left out"
    )
    scaling: float = Field(default=1.0, gt=0, description="factor on an adapter's output; 4 for parallel when left out")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on an adapter's output")
    mh_adapter: bool = Field(
        default=False, description="adapters after the attention block; true for houlsby when left out"
    )
    output_adapter: bool = Field(default=True, description="adapters at the feed-forward block")
    leave_out: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="indices of layers without adapters; 0 is the one next to the embeddings"
    )

    @model_validator(mode="before")
    @classmethod
    def _set_by_kind(cls, data: Any) -> Any:
        return {**DEFAULTS.get(data.get("kind"), {}), **data} if isinstance(data, dict) else data

    @field_validator("non_linearity")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in ACT2FN:
            raise ValueError(f"transformers has no activation '{value}'.{did_you_mean(value, ACT2FN)}")
        return value

    @model_validator(mode="after")
    def _are_somewhere(self) -> Options:
        if self.kind == "pfeiffer" and self.mh_adapter:
            raise ValueError("pfeiffer has no adapter at the attention: expected mh_adapter: false")
        if not (self.mh_adapter or self.output_adapter):
            raise ValueError("expected mh_adapter or output_adapter to be true")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """The places of a layer that have an adapter."""
        return ("attention",) * self.mh_adapter + ("output",) * self.output_adapter
