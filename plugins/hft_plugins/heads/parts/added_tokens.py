"""Find the special tokens that a tokenizer adds by itself at the beginning and end of each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class AddedTokens:
    """What a tokenizer adds around a single text."""

    begin: list[int]
    end: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, kind: Literal["text", "text_target"] = "text") -> AddedTokens:
        """Read them off a text of one letter: one to read, or one to write (`text_target`)."""
        bare: list[int] = tokenizer(**{kind: "a"}, add_special_tokens=False)["input_ids"]
        whole: list[int] = tokenizer(**{kind: "a"})["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return cls(whole[:start], whole[start + len(bare) :])
        return cls([], [])

    def begun(self, ids: Sequence[int]) -> list[int]:
        """Return tokenized text with the tokens of its beginning, once."""
        return [*ids] if self.begin and list(ids[: len(self.begin)]) == self.begin else [*self.begin, *ids]

    def around(self, ids: Sequence[int], limit: int) -> list[int]:
        """Return at most `limit` tokens of a text with both, once; one that is too long loses its end."""
        begun = self.begun(ids)
        if self.end and begun[-len(self.end) :] == self.end:
            begun = begun[: -len(self.end)]
        whole = [*begun, *self.end]
        return whole if len(whole) <= limit else begun[:limit]


def ended(ids: Sequence[int], end: int | None) -> list[int]:
    """Return tokenized text with the token `end` at its end, once; as it is where there is no such token."""
    return [*ids] if end is None or (ids and ids[-1] == end) else [*ids, end]
