"""Choose a model for the tasks of a recipe whose user names none, and the heads that the model's kind can have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from hft_core.errors import UsageError
from hft_core.inspection.proposal import Proposal
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe.backbone_opener import opener_of

ModelKind = Literal["hf-encoder", "hf-decoder", "hf-seq2seq"]

MODELS: dict[ModelKind, dict[str, str]] = {
    "hf-encoder": {
        "English": "sentence-transformers/all-MiniLM-L6-v2",
        "Chinese": "google-bert/bert-base-chinese",
        "": "distilbert/distilbert-base-multilingual-cased",
    },
    "hf-decoder": {"English": "HuggingFaceTB/SmolLM2-135M-Instruct", "": "Qwen/Qwen3-0.6B"},
    "hf-seq2seq": {"English": "google-t5/t5-small", "": "google/mt5-small"},
}
"""Small models of the hub by kind and language; the last one is for all others, and for several languages."""

MOSTLY = 0.9
"""The texts of a language that a model for it can have: the language of short texts is often taken for another one."""

WRITING = ("seq2seq", "instruction")
LANGUAGE = "mlm"
"""The head of texts without labels, where the model is an encoder."""


def kind_for(proposals: Sequence[Proposal]) -> ModelKind:
    """Return the kind of model that can have all the tasks."""
    heads = {proposal.head for proposal in proposals}
    if heads == {"seq2seq"}:
        return "hf-seq2seq"
    return "hf-decoder" if heads & set(WRITING) else "hf-encoder"


def default_model(kind: ModelKind, languages: Mapping[str, float]) -> tuple[str, str]:
    """Return a small model for texts in the languages (shares by name), and why."""
    known = MODELS[kind]
    first = next(iter(languages), "English")
    language = first if first in known and languages.get(first, 1) >= MOSTLY else ""
    what = {"hf-encoder": "encoder", "hf-decoder": "decoder", "hf-seq2seq": "encoder-decoder"}[kind]
    spoken = language or "many languages"
    return known[language], f"a small {what} for texts in {spoken}; name another one with --model"


def kind_of(catalogue: Catalogue, model: str) -> str:
    """Return the backbone plugin that opens a model. Raises `PluginError` if none does."""
    return opener_of(catalogue, model, "--model")


def fitted(proposal: Proposal, kind: str, model: str) -> Proposal:
    """Return the task with a head that a model of this kind can have. Raises `UsageError` if there is none."""
    if proposal.head in WRITING:
        if kind == "hf-encoder":
            raise UsageError(
                f"--model {model}: it is an encoder, which writes no text, but {proposal.why}; expected a decoder or "
                "an encoder-decoder"
            )
        if proposal.head == "seq2seq" and kind == "hf-decoder":
            options = {"prompt": proposal.options["source"], "response": proposal.options["target"]}
            return replace(proposal, head="instruction", options=options)
    if proposal.head == LANGUAGE and kind == "hf-decoder":
        return replace(proposal, head="clm")
    if proposal.head == LANGUAGE and kind == "hf-seq2seq":
        raise UsageError(
            f"--model {model}: it is an encoder-decoder, which learns nothing from texts without labels here; expected "
            "an encoder or a decoder, or only files with labels"
        )
    return proposal
