"""Tokenize conversations by a chat template, and find the assistant's tokens.

Templates run in transformers' sandbox: they come with models and are programs of a kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hft_plugins.heads.parts import template_trial
from hft_plugins.heads.parts.end_tokens import last_token
from hft_plugins.heads.parts.loose_ends import loose_end
from hft_plugins.heads.parts.token_overlap import Span, tokens_of

Messages = list[dict[str, Any]]

_MARKED = re.compile(r"\{%-?\s*generation\b")


@dataclass(frozen=True)
class Conversation:
    """A tokenized conversation."""

    ids: list[int]
    turns: list[Span]
    """The tokens of each of the assistant's turns: the first one, and one beyond the last."""
    last_tokens: list[int]
    """The last token of each turn that is no blank."""
    prompt_agrees: bool
    """Whether the tokens before the last turn are those of the prompt for it."""
    blank: str
    """What the prompt for the last turn ends in, and the tokenizer merges with what follows; empty for nothing."""


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
    """Drop the keys of messages that are None."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def prompt_text(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> str:
    """Format the conversation as a prompt for the assistant's next turn."""
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def prompt_ids(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize the prompt for the assistant's next turn, special tokens as the template writes them.

    Blanks at its end that the tokenizer merges with the response are left out: they are the response's to write.
    """
    text = prompt_text(messages, tokenizer)
    return _ids(text[: len(text) - loose_end(text, tokenizer)], tokenizer)


def conversation(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """Tokenize the conversation and find the assistant's turns in it.

    They are what the template marks with `{% generation %}`, or else what it writes for the assistant's messages, the
    end of each turn included; with the blanks before them that the tokenizer merges with them. Raises `ValueError`
    where neither finds every turn.
    """
    places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    prompts = [prompt_text(messages[:i], tokenizer) for i in places]
    text, spans = (_marked if _marks(tokenizer) else _written)(messages, places, prompts, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    loose = [loose_end(prompt, tokenizer) for prompt in prompts]
    spans = [_from_blank(span, text, blanks) for span, blanks in zip(spans, loose, strict=True)]
    turns = [tokens_of(span, offsets) for span in spans]
    found = [turn for turn in turns if turn is not None]
    if len(found) < len(places) or any(one[1] > other[0] for one, other in pairwise(found)):
        raise ValueError(f"the chat template shows {_apart(found)} turns of the assistant, expected {len(places)}")
    stable = prompts[-1][: len(prompts[-1]) - loose[-1]]
    return Conversation(
        ids,
        found,
        [last_token(ids[slice(*turn)], tokenizer) for turn in found],
        prompt_agrees=_ids(stable, tokenizer) == ids[: found[-1][0]],
        blank=prompts[-1][len(stable) :],
    )


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _from_blank(span: Span, text: str, blanks: int) -> Span:
    """Return the span with the blanks before it, where the prompt ends in so many that merge with it."""
    start = max(0, span[0] - blanks)
    return (start, span[1]) if text[start : span[0]].isspace() else span


def _apart(turns: Sequence[Span]) -> int:
    """Count the turns, those that share a token as one."""
    return len(turns) - sum(one[1] > other[0] for one, other in pairwise(turns))


def _marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(_MARKED.search(tokenizer.get_chat_template()))


def _marked(
    messages: Messages, places: Sequence[int], prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[Span]]:
    """Return the conversation's text and the spans that the template marks; spans without text between them are one."""
    render: Any = render_jinja_template  # it is annotated as if it returned one text
    texts, marks = render(
        conversations=[messages],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    spans: list[Span] = []
    for start, end in marks[0]:
        if spans and start == spans[-1][1] and len(marks[0]) > len(places):
            spans[-1] = (spans[-1][0], end)
        elif start < end:
            spans.append((start, end))
    if len(spans) != len(places):
        raise ValueError(f"the chat template shows {len(spans)} turns of the assistant, expected {len(places)}")
    return texts[0], spans


def _written(
    messages: Messages, places: Sequence[int], prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[Span]]:
    """Return the conversation's text, and what each message of the assistant adds to the prompt before it."""
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    spans: list[Span] = []
    for i, before in zip(places, prompts, strict=True):
        through = str(tokenizer.apply_chat_template(messages[: i + 1], tokenize=False))
        if not (text.startswith(through) and through.startswith(before)):
            raise ValueError(
                f"the chat template writes message {i + 1} otherwise once others follow, so that the assistant's part "
                "is not known; a template that marks it with {% generation %} helps"
            )
        spans.append((len(before), len(through)))
    return text, spans
