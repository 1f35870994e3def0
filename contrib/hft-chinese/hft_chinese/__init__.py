"""List the plugins for Chinese text; light: each implementation is a module beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hft_core.hooks import hookimpl
from hft_core.specs import HeadSpec, RecipeSpec

_SAMPLES = Path(__file__).parent / "samples"
"""A few made-up rows of each task that has a recipe."""
_CLUE = "CLUE (Xu et al. 2020, arXiv:2004.05986)"


def _example(task: str) -> dict[str, Any]:
    return {"data": str(_SAMPLES / task), "model": "hfl/chinese-macbert-base"}


@hookimpl
def hft_heads() -> list[HeadSpec]:
    return [
        HeadSpec(
            name="mlm-jieba",
            summary="Masked language modelling of Chinese: runs of whole words, which jieba and your dictionary find",
            factory="hft_chinese.mlm_jieba:build",
            options="hft_chinese.mlm_jieba:Options",
            needs_labels=False,
            source="MacBERT (Cui et al. 2020, arXiv:2004.13922); Chinese whole-word masking (arXiv:1906.08101)",
        ),
    ]


@hookimpl
def hft_recipes() -> list[RecipeSpec]:
    return [
        RecipeSpec(
            name="clue-tnews",
            summary="CLUE's TNEWS: the topic of a news headline, one of 15",
            factory="hft_chinese.recipes:tnews",
            options="hft_chinese.recipes:Options",
            example=_example("tnews"),
            next=("hft predict RUN 主队在最后一分钟进球",),
            source=_CLUE,
        ),
        RecipeSpec(
            name="clue-afqmc",
            summary="CLUE's AFQMC: whether two questions to a bank mean the same",
            factory="hft_chinese.recipes:afqmc",
            options="hft_chinese.recipes:Options",
            example=_example("afqmc"),
            next=("hft predict RUN 怎么修改还款日 还款日可以改吗",),
            source=_CLUE,
        ),
        RecipeSpec(
            name="clue-cmnli",
            summary="CLUE's CMNLI: whether a sentence follows from another one, contradicts it, or neither",
            factory="hft_chinese.recipes:cmnli",
            options="hft_chinese.recipes:Options",
            example=_example("cmnli"),
            next=("hft predict RUN 两个孩子在河边钓鱼 有人在钓鱼",),
            source=_CLUE,
        ),
        RecipeSpec(
            name="clue-cluener",
            summary="CLUENER2020: named entities of ten types, a tag for each character",
            factory="hft_chinese.recipes:cluener",
            options="hft_chinese.recipes:CluenerOptions",
            requires=("seqeval>=1.2",),
            example=_example("cluener"),
            next=("hft evaluate RUN",),
            source="CLUENER2020 (Xu et al. 2020, arXiv:2001.04351)",
        ),
    ]
