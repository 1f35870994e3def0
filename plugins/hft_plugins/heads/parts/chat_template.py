"""Tokenize conversations by a chat template, and find the assistant's tokens.

Templates run in transformers' sandbox: they come with models and are programs of a kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from hft_plugins.heads.parts import template_trial

Messages = list[dict[str, Any]]
Spans = list[tuple[int, int]]

_MARKED = re.compile(r"\{%-?\s*generation\b")


def need_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` if the tokenizer cannot format conversations."""
    if not tokenizer.chat_template:
        raise ValueError(
            "the backbone's tokenizer has no chat template, which messages need; take a model that was tuned for chat, "
            "or columns of prompts and responses"
        )
    if not tokenizer.is_fast:
        raise ValueError("the backbone's tokenizer gives no offsets, which are needed to find the assistant's tokens")
    for number in (1, 2, 3):
        messages = [{"role": role, "content": "a few words"} for role in ("user", "assistant", "user")[:number]]
        template_trial.refuse_endless(lambda messages=messages: prompt_text(messages, tokenizer))  # type: ignore[misc]


def without_empty(messages: Messages) -> Messages:
    """Drop the keys of messages that are None, added by other rows of the table."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def prompt_text(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    """Format the conversation as a prompt for the assistant's next turn."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def prompt_ids(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of `prompt_text`, special ones as the template writes them."""
    ids: list[int] = tokenizer(prompt_text(messages, tokenizer), add_special_tokens=False)["input_ids"]
    return ids


def assistant_turns(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], Spans]:
    """The tokens of the conversation, and the assistant's turns in them: (first token, one beyond the last).

    They are what the template marks with `{% generation %}`, or else what it writes for the assistant's messages, the
    end of each turn included. Raises `ValueError` where neither finds every turn.
    """
    expected = sum(message["role"] == "assistant" for message in messages)
    ids, flags = _marked(messages, tokenizer) if _marks(tokenizer) else _written(messages, tokenizer)
    turns = list(_runs(flags))
    if len(turns) != expected:
        raise ValueError(f"the chat template shows {len(turns)} turns of the assistant, expected {expected}")
    return ids, turns


def _marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(_MARKED.search(tokenizer.get_chat_template()))


def _marked(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    encoding: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return encoding["input_ids"], encoding["assistant_masks"]


def _written(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """From the texts: a turn is what one more message of the assistant adds to the prompt before it."""
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    flags = [0] * len(encoding["input_ids"])
    for number, (start, end) in enumerate(_turns_in(text, messages, tokenizer), start=1):
        for token, (first, _) in enumerate(encoding["offset_mapping"]):
            if start <= first < end:
                flags[token] = number
    return encoding["input_ids"], flags


def _turns_in(text: str, messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, int]]:
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = prompt_text(messages[:i], tokenizer)
        through = str(tokenizer.apply_chat_template(messages[: i + 1], tokenize=False))
        if not (text.startswith(through) and through.startswith(before)):
            raise ValueError(
                f"the chat template writes message {i + 1} otherwise once others follow, so that the assistant's part "
                "is not known; a template that marks it with {% generation %} helps"
            )
        yield len(before), len(through)


def _runs(flags: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of equal nonzero flags, end exclusive."""
    start = 0
    for flag, run in groupby(flags):
        end = start + len(list(run))
        if flag:
            yield start, end
        start = end
