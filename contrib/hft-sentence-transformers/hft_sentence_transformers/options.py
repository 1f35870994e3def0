"""Options of the backbone; imports no torch."""

from __future__ import annotations

from hft_plugins.backbones.options import EncoderOptions


class Options(EncoderOptions):
    """How a folder of sentence-transformers, or one on the hub, is opened."""
