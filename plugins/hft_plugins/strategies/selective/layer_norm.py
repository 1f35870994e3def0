"""`layer-norm`: train the norms of the trunk only."""

from __future__ import annotations

from torch import nn

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.options import Options as Options  # `layer-norm` has no options of its own
from hft_core.strategy import Strategy


class LayerNormTuning(Strategy):
    """Train the weights and biases of every norm, `RMSNorm` included (Zhao et al. 2023, arXiv:2312.11420)."""

    # As for biases, which are as few parameters.
    learning_rate = 5e-4

    def apply(self, backbone: Backbone, tasks: tuple[str, ...]) -> None:
        """Raises `PluginError` when no norm of the trunk has parameters."""
        backbone.trunk.requires_grad_(False)
        norms = [module for module in backbone.trunk.modules() if is_norm(module)]
        if not norms:
            raise PluginError(f"strategy 'layer-norm': {type(backbone.trunk).__name__} has no norm with parameters")
        for norm in norms:
            norm.requires_grad_(True)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is a normalization with parameters. Families bring norms of their own (`LlamaRMSNorm`) that have
    no class in common, but all say so in their name."""
    has_own = any(True for _ in module.parameters(recurse=False))
    return has_own and "norm" in type(module).__name__.lower()


def build(options: Options) -> LayerNormTuning:
    return LayerNormTuning()
