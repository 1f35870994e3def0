"""`bitfit`: train the biases of the trunk only."""

from __future__ import annotations

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.options import Options as Options  # `bitfit` has no options of its own
from hft_core.strategy import Strategy


class BitFit(Strategy):
    """Train every bias, those of the norms included (Ben Zaken et al. 2022, arXiv:2106.10199)."""

    # Within the paper's range for biases, 1e-4 to 1e-3.
    learning_rate = 5e-4

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when the trunk has no biases, as in Llama's family."""
        backbone.trunk.requires_grad_(False)
        biases = [p for name, p in backbone.trunk.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise PluginError(
                f"strategy 'bitfit': {type(backbone.trunk).__name__} has no biases to train: expected a trunk with "
                "some (BERT, RoBERTa, GPT-2); 'layer-norm' trains the norms of any trunk"
            )
        for bias in biases:
            bias.requires_grad_(True)


def build(options: Options) -> BitFit:
    return BitFit()
