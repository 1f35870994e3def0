"""Task heads: light specs only; each plugin's implementation is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import HeadSpec

SPECS = (
    HeadSpec(
        name="classification",
        summary="One of several classes for a text or a pair of texts",
        factory="hft_plugins.heads.classification:build",
        options="hft_plugins.heads.classification:Options",
        source="transformers AutoModelForSequenceClassification",
    ),
    HeadSpec(
        name="multilabel",
        summary="Several classes, or none, for a text or a pair of texts",
        factory="hft_plugins.heads.multilabel:build",
        options="hft_plugins.heads.multilabel:Options",
        source="transformers AutoModelForSequenceClassification",
    ),
    HeadSpec(
        name="token-classification",
        summary="A tag for each word: named entities (BIO, IOBES, BILOU), parts of speech",
        factory="hft_plugins.heads.token_classification:build",
        options="hft_plugins.heads.token_classification:Options",
        requires=("seqeval>=1.2.2",),
        example_rows="hft_plugins.heads.parts.example_rows:token_classification",
        source="transformers AutoModelForTokenClassification; scores by seqeval",
    ),
    HeadSpec(
        name="span",
        summary="Extractive question answering: the position of the answer in a text",
        factory="hft_plugins.heads.span:build",
        options="hft_plugins.heads.span:Options",
        example_rows="hft_plugins.heads.parts.example_rows:span",
        source="Rajpurkar et al. 2016, arXiv:1606.05250; transformers AutoModelForQuestionAnswering",
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
        summary="Masked language modelling of tokens, whole words or spans",
        factory="hft_plugins.heads.mlm:build",
        options="hft_plugins.heads.mlm:Options",
        needs_labels=False,
        streams=True,
        source="Devlin et al. 2019, arXiv:1810.04805",
    ),
    HeadSpec(
        name="clm",
        summary="Causal language modelling: each next token of the text",
        factory="hft_plugins.heads.clm:build",
        options="hft_plugins.heads.clm:Options",
        needs_labels=False,
        streams=True,
        source="Radford et al. 2018; transformers AutoModelForCausalLM",
    ),
    HeadSpec(
        name="seq2seq",
        summary="A target text from a source text (summaries, translations), by an encoder-decoder",
        factory="hft_plugins.heads.seq2seq:build",
        options="hft_plugins.heads.seq2seq:Options",
        source="Sutskever et al. 2014, arXiv:1409.3215; transformers AutoModelForSeq2SeqLM",
    ),
    HeadSpec(
        name="instruction",
        summary="Instruction tuning: loss on responses, or on the assistant's turns of conversations, only",
        factory="hft_plugins.heads.instruction:build",
        options="hft_plugins.heads.instruction:Options",
        example_rows="hft_plugins.heads.parts.example_rows:instruction",
        source="Wei et al. 2021, arXiv:2109.01652; Ouyang et al. 2022, arXiv:2203.02155",
    ),
    HeadSpec(
        name="multiple-choice",
        summary="The right one of a row's choices, each read after the question",
        factory="hft_plugins.heads.multiple_choice:build",
        options="hft_plugins.heads.multiple_choice:Options",
        example_rows="hft_plugins.heads.parts.example_rows:multiple_choice",
        source="transformers AutoModelForMultipleChoice",
    ),
    HeadSpec(
        name="ranking",
        summary="A score for a query with a document: pointwise, pairwise or listwise",
        factory="hft_plugins.heads.ranking:build",
        options="hft_plugins.heads.ranking:Options",
        example_rows="hft_plugins.heads.parts.example_rows:ranking",
        source="RankNet (Burges et al. 2005), ListNet (Cao et al. 2007); transformers "
        "AutoModelForSequenceClassification",
    ),
    HeadSpec(
        name="contrastive",
        summary="Text embeddings by in-batch negatives over all rows of a step; SimCSE with one column",
        factory="hft_plugins.heads.contrastive:build",
        options="hft_plugins.heads.contrastive:Options",
        needs_labels=False,
        source="Gao et al. 2021, arXiv:2104.08821; sentence-transformers MultipleNegativesRankingLoss",
    ),
    HeadSpec(
        name="distillation",
        summary="A teacher's class probabilities, from the rows or from a finished run",
        factory="hft_plugins.heads.distillation:build",
        options="hft_plugins.heads.distillation:Options",
        example={"probabilities": "probabilities"},
        source="Hinton et al. 2015, arXiv:1503.02531",
    ),
)


@hookimpl
def hft_heads() -> list[HeadSpec]:
    return list(SPECS)
