"""Tokenize conversations, and find the assistant's tokens in them.

They are what the template marks with `{% generation %}`, or else what it writes for a message of the assistant after
the prompt for it, up to the token that ends the turn.

Many templates write a turn otherwise once others follow it: they leave out its thinking (Qwen3, gpt-oss), or set the
system's message before the last message of the user (Mistral). A conversation is then several examples, each of them
with the tokens that the template gives when the assistant speaks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hft_plugins.heads.parts.chat_template import Talk, prompt_text, refuse_left_out, text_of
from hft_plugins.heads.parts.end_tokens import end_tokens, last_token
from hft_plugins.heads.parts.loose_ends import loose_end
from hft_plugins.heads.parts.token_overlap import Span, tokens_of

THINKING = ("reasoning_content", "reasoning", "thinking")
"""Keys of what the assistant thinks before it speaks, in the formats of several programs."""

_MARKED = re.compile(r"\{%-?\s*generation\b")
HELPS = "a template that marks it with {% generation %} helps"

_closings: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Conversation:
    """A tokenized conversation, or a part of one."""

    ids: list[int]
    places: list[int]
    """The messages of the assistant that are turns here."""
    turns: list[Span]
    """The tokens of each: the first one, and one beyond the last."""
    last_tokens: list[int]
    """The last token of each turn that is no blank."""
    prompt_agrees: bool
    """Whether the tokens before the last turn are those of the prompt for it."""
    blank: str
    """What the prompt for the last turn ends in, and the tokenizer merges with what follows; empty for nothing."""
    shortened: bool
    """Whether the template leaves out a part of what the assistant says in one of the turns."""


@dataclass(frozen=True)
class _Text:
    """A formatted conversation, and the characters of the assistant's turns in it."""

    text: str
    places: list[int]
    spans: list[Span]


def prompt_ids(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize the prompt for the assistant's next turn, special tokens as the template writes them.

    Blanks at its end that the tokenizer merges with the response are left out: they are the response's to write.
    """
    text = prompt_text(talk, tokenizer)
    refuse_left_out(talk, text, tokenizer)
    return _ids(text[: len(text) - loose_end(text, tokenizer)], tokenizer)


def conversations(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> list[Conversation]:
    """Tokenize a conversation that ends with a message of the assistant, and find the assistant's turns in it.

    With the blanks before them that the tokenizer merges with them. Several ones, the longest last, where the template
    writes turns otherwise once others follow; each turn is in one of them. Raises `ValueError` where a turn is not
    found, and where the template leaves out a message.
    """
    prompts = {place: prompt_text(talk.upto(place), tokenizer) for place in talk.assistants}
    texts = [_marked(talk, tokenizer)] if _marks(tokenizer) else _written(talk, prompts, tokenizer)
    refuse_left_out(talk, texts[-1].text, tokenizer)
    return [_tokenized(text, talk, prompts, tokenizer) for text in texts]


def _tokenized(text: _Text, talk: Talk, prompts: dict[int, str], tokenizer: PreTrainedTokenizerBase) -> Conversation:
    encoding = tokenizer(text.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    loose = [loose_end(prompts[place], tokenizer) for place in text.places]
    spans = [_from_blank(span, text.text, blanks) for span, blanks in zip(text.spans, loose, strict=True)]
    turns = [tokens_of(span, offsets) for span in spans]
    found = [turn for turn in turns if turn is not None]
    if len(found) < len(spans) or any(one[1] > other[0] for one, other in pairwise(found)):
        raise ValueError(f"the chat template shows {_apart(found)} turns of the assistant, expected {len(spans)}")
    prompt = prompts[text.places[-1]]
    stable = prompt[: len(prompt) - loose[-1]]
    said = [_said(talk.messages[place]) for place in text.places]
    return Conversation(
        ids,
        text.places,
        [_to_end(turn, ids, tokenizer) for turn in found],
        [last_token(ids[slice(*turn)], tokenizer) for turn in found],
        prompt_agrees=_ids(stable, tokenizer) == ids[: found[-1][0]],
        blank=prompt[len(stable) :],
        shortened=not all(
            _holds(text.text[slice(*s)], part) for s, parts in zip(spans, said, strict=True) for part in parts
        ),
    )


def _said(message: Mapping[str, Any]) -> list[str]:
    """Return the texts of a message of the assistant: its content, and its thinking where that is apart."""
    return [message[key] for key in ("content", *THINKING) if isinstance(message.get(key), str)]


def _holds(written: str, content: str) -> bool:
    """Tell whether a text has another one in it, whatever blanks there are."""
    return "".join(content.split()) in "".join(written.split())


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _from_blank(span: Span, text: str, blanks: int) -> Span:
    """Return the span with the blanks before it, where the prompt ends in so many that merge with it."""
    start = max(0, span[0] - blanks)
    return (start, span[1]) if text[start : span[0]].isspace() else span


def _to_end(turn: Span, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Span:
    """Return the turn without the blanks after the token that ends it, where there is one: generation stops there."""
    ends, (start, end) = end_tokens(tokenizer), turn
    while end > start and ids[end - 1] not in ends and not str(tokenizer.decode([ids[end - 1]])).strip():
        end -= 1
    return (start, end) if end > start and ids[end - 1] in ends else turn


def _apart(turns: Sequence[Span]) -> int:
    """Count the turns, those that share a token as one."""
    return len(turns) - sum(one[1] > other[0] for one, other in pairwise(turns))


# --- templates that mark the assistant's part


def _marks(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(_MARKED.search(tokenizer.get_chat_template()))


def _marked(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> _Text:
    """Return the spans that the template marks; those without text between them are one."""
    render: Any = render_jinja_template  # it is annotated as if it returned one text
    texts, marks = render(
        conversations=[talk.messages],
        tools=[dict(tool) for tool in talk.tools] or None,
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    places, spans = talk.assistants, list[Span]()
    for start, end in marks[0]:
        if spans and start == spans[-1][1] and len(marks[0]) > len(places):
            spans[-1] = (spans[-1][0], end)
        elif start < end:
            spans.append((start, end))
    if len(spans) != len(places):
        raise ValueError(f"the chat template shows {len(spans)} turns of the assistant, expected {len(places)}")
    return _Text(texts[0], places, spans)


# --- templates that do not


def _written(talk: Talk, prompts: dict[int, str], tokenizer: PreTrainedTokenizerBase) -> list[_Text]:
    """Return the texts that end with a turn of the assistant, those that begin longer ones left out."""
    closing = _closing(tokenizer)
    texts = {
        place: prompts[place] + _response(talk.upto(place + 1), prompts[place], closing, tokenizer)
        for place in talk.assistants
    }
    left, found = list(texts), []
    while left:
        longest = texts[left[-1]]
        here = [place for place in left if longest.startswith(texts[place])]
        spans = [(len(prompts[place]), len(texts[place])) for place in here]
        found.append(_Text(longest, here, spans))
        left = [place for place in left if place not in here]
    return found[::-1]


def _response(talk: Talk, prompt: str, closing: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes for the conversation's last message after the prompt for it."""
    text = text_of(talk, tokenizer).removesuffix(closing)
    if text.startswith(prompt):
        return text[len(prompt) :]
    # What is before the message may be written otherwise now: look for the end of the message before it.
    content = talk.messages[-2]["content"].strip()
    begun = prompt[prompt.rfind(content) :] if content else ""
    if not begun or text.count(begun) != prompt.count(begun):
        number = len(talk.messages)
        raise ValueError(
            f"the chat template does not write message {number} as a continuation of the prompt for it, so that the "
            f"assistant's part is not known; {HELPS}"
        )
    return text[text.rfind(begun) + len(begun) :]


def _closing(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes once at the end of a conversation, after the token that ends the last turn (the
    end of text of Phi); empty for nothing."""
    template = tokenizer.get_chat_template()
    known = _closings.setdefault(tokenizer, {})
    if template not in known:
        known[template] = _found_closing(tokenizer)
    return known[template]


def _found_closing(tokenizer: PreTrainedTokenizerBase) -> str:
    messages = [{"role": role, "content": "a few words"} for role in ("user", "assistant", "user")]
    try:
        two, three = (text_of(Talk(messages[:number]), tokenizer) for number in (2, 3))
    except Exception:  # a template is a program: what it cannot write is found in the rows
        return ""
    encoding = tokenizer(two, add_special_tokens=False, return_offsets_mapping=True)
    ids, pairs = encoding["input_ids"], zip(encoding["input_ids"], _ids(three, tokenizer), strict=False)
    kept = next((i for i, (one, other) in enumerate(pairs) if one != other), len(ids))
    closing = two[encoding["offset_mapping"][kept - 1][1] :] if kept else two
    ended = bool(kept) and last_token(ids[:kept], tokenizer) in end_tokens(tokenizer)
    return closing if ended and three.endswith(closing) else ""
