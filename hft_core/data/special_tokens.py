"""Find special tokens that are written out in texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SpecialTokens:
    """The special tokens that a tokenizer finds in texts; none where it splits them (`split_special_tokens`)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        known = getattr(tokenizer, "added_tokens_decoder", {})
        names = {str(token) for token in known.values() if getattr(token, "special", False)}
        names -= {str(getattr(tokenizer, "unk_token", None))}
        if getattr(tokenizer, "split_special_tokens", False):
            names = set()
        longest_first = sorted((name for name in names if name.strip()), key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def written_in(self, text: str) -> str:
        """Return the first special token that is written out in a text; empty for none."""
        found = self._any.search(text) if self._any is not None else None
        return found[0] if found else ""
