"""Score each token of a sequence."""

from __future__ import annotations

from torch import Tensor, nn

from hft_core.backbone import Backbone, Features
from hft_plugins.heads.parts.sequence_head import ScoringHead


class PositionLinear(nn.Module):
    """For backbones whose family has no module of its own: a linear layer on each token's hidden state."""

    def __init__(self, hidden_size: int, outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, outputs)

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, seq, outputs]`"""
        outputs: Tensor = self.output(features.hidden)
        return outputs


class PositionHead(ScoringHead):
    """One vector of outputs a token: `raw_outputs` gives `[batch, seq, outputs]`."""

    def attach_positions(self, backbone: Backbone, outputs: int, plain_class: str) -> None:
        """Build the module that scores the tokens."""
        self.scorer = backbone.sequence_module(plain_class, num_labels=outputs) or PositionLinear(
            backbone.hidden_size, outputs
        )
