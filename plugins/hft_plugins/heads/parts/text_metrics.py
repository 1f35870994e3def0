"""Compare generated texts with their references: ROUGE, BLEU and chrF, by rouge-score and sacrebleu."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

Tokenizer = Literal["13a", "intl", "zh", "char"]
"""sacrebleu's tokenizers that need no further package."""

ROUGES = ("rouge1", "rouge2", "rougeL")


_KANA, _CHINESE = re.compile(r"[\u3040-\u30ff]"), re.compile(r"[\u3400-\u9fff]")


def tokenizer_for(texts: Sequence[str]) -> Tokenizer:
    """Return `char` where at least half of the texts are Japanese, `zh` where at least half are Chinese or Japanese;
    otherwise `13a`."""
    kana = sum(_KANA.search(text) is not None for text in texts)
    either = sum(_KANA.search(text) is not None or _CHINESE.search(text) is not None for text in texts)
    if not texts or 2 * either < len(texts):
        return "13a"
    return "char" if 2 * kana >= len(texts) else "zh"


def need_libraries() -> None:
    """Raise `ValueError`, with the command that helps, where one of the two libraries is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("rouge_score", "sacrebleu")):
        raise ValueError(
            "scores of generated texts need rouge-score and sacrebleu, which are not installed: "
            "pip install 'hft-core[generation]', or leave 'generate' out"
        )


def text_scores(predictions: Sequence[str], references: Sequence[str], tokenizer: Tokenizer) -> dict[str, float]:
    """`rouge1`, `rouge2` and `rougeL` (means of F1 over the texts, 0 to 1), `bleu` and `chrf` (of all texts, 0 to 100).

    `tokenizer` is BLEU's. ROUGE has a tokenizer of its own, which sees only letters and digits of English: with any
    other than `13a`, it counts the same tokens as BLEU. chrF needs none.
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    bleu = BLEU(tokenize=tokenizer)
    scorer = RougeScorer(ROUGES, tokenizer=None if tokenizer == "13a" else _Tokens(bleu))
    rows = [scorer.score(reference, text) for reference, text in zip(references, predictions, strict=True)]
    means = {name: float(np.mean([row[name].fmeasure for row in rows])) for name in ROUGES}
    return {
        **means,
        "bleu": float(bleu.corpus_score(predictions, [references]).score),
        "chrf": float(CHRF().corpus_score(predictions, [references]).score),
    }


class _Tokens:
    """sacrebleu's tokenizer as rouge-score calls one."""

    def __init__(self, bleu: object) -> None:
        self._bleu = bleu

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = self._bleu.tokenizer(text).split()  # type: ignore[attr-defined]
        return tokens
