"""Task heads: light specs only; each plugin's implementation is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import HeadSpec


@hookimpl
def hft_heads() -> list[HeadSpec]:
    return [
        HeadSpec(
            name="classification",
            summary="One of several classes for a text or a pair of texts",
            factory="hft_plugins.heads.classification:build",
            options="hft_plugins.heads.classification:Options",
            source="transformers AutoModelForSequenceClassification",
        ),
        HeadSpec(
            name="regression",
            summary="A number for a text or a pair of texts",
            factory="hft_plugins.heads.regression:build",
            options="hft_plugins.heads.regression:Options",
            source="transformers AutoModelForSequenceClassification",
        ),
        HeadSpec(
            name="mlm",
            summary="Masked language modelling: the text's own hidden tokens",
            factory="hft_plugins.heads.mlm:build",
            options="hft_plugins.heads.mlm:Options",
            needs_labels=False,
            source="Devlin et al. 2019, arXiv:1810.04805",
        ),
        HeadSpec(
            name="clm",
            summary="Causal language modelling: each next token of the text",
            factory="hft_plugins.heads.clm:build",
            options="hft_plugins.heads.clm:Options",
            needs_labels=False,
            source="Radford et al. 2018; transformers AutoModelForCausalLM",
        ),
    ]
