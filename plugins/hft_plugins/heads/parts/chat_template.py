"""Format conversations by a chat template.

Templates run in transformers' sandbox: they come with models and are programs of a kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from hft_plugins.heads.parts import template_trial

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Talk:
    """A conversation, and the tools that it may call."""

    messages: Messages
    tools: tuple[Mapping[str, Any], ...] = ()
    """Their JSON schemas."""

    def upto(self, count: int) -> Talk:
        """Return the conversation of the first `count` messages."""
        return Talk(self.messages[:count], self.tools)

    def with_message(self, place: int, message: Mapping[str, Any]) -> Talk:
        """Return the conversation with another message at `place`."""
        return Talk([*self.messages[:place], dict(message), *self.messages[place + 1 :]], self.tools)

    @property
    def assistants(self) -> list[int]:
        """The places of the assistant's messages."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]


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
        talk = Talk([{"role": role, "content": "a few words"} for role in ("user", "assistant", "user")[:number]])
        template_trial.refuse_endless(lambda talk=talk: prompt_text(talk, tokenizer))  # type: ignore[misc]


def prepared(messages: Messages) -> Messages:
    """Return the messages as templates expect them: without keys that are None, with a content, and with the arguments
    of tool calls as objects, which OpenAI's format has as JSON text."""
    return [_prepared(message) for message in messages]


def _prepared(message: Mapping[str, Any]) -> dict[str, Any]:
    made = {"content": "", **{key: value for key, value in message.items() if value is not None}}
    if "tool_calls" in made:
        made["tool_calls"] = [_with_object(call) for call in made["tool_calls"]]
    return made


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in call.items() if value is not None}
    if isinstance(made.get("function"), Mapping):
        return {**made, "function": _with_object(made["function"])}
    if isinstance(made.get("arguments"), str):
        try:
            arguments = json.loads(made["arguments"])
        except ValueError:
            return made
        made["arguments"] = arguments if isinstance(arguments, dict) else made["arguments"]
    return made


def prompt_text(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> str:
    """Format the conversation as a prompt for the assistant's next turn."""
    return _formatted(talk, tokenizer, add_generation_prompt=True)


def text_of(talk: Talk, tokenizer: PreTrainedTokenizerBase) -> str:
    """Format the conversation as it is."""
    return _formatted(talk, tokenizer, add_generation_prompt=False)


def _formatted(talk: Talk, tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool) -> str:
    tools: Any = [dict(tool) for tool in talk.tools] or None
    return str(
        tokenizer.apply_chat_template(
            talk.messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    )


def refuse_left_out(talk: Talk, text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` where `text`, the conversation as the template formats it, has nothing of a message or of the
    tools."""
    if talk.tools and text_of(talk, tokenizer) == text_of(Talk(talk.messages), tokenizer):
        raise ValueError("the chat template writes no tools, expected no column of them")
    for place, message in enumerate(talk.messages):
        if not _is_written(talk, place, text, tokenizer):
            raise ValueError(f"the chat template leaves out message {place + 1}, of the {message['role']}")
        if message.get("tool_calls"):
            without = {key: value for key, value in message.items() if key != "tool_calls"}
            if text_of(talk, tokenizer) == text_of(talk.with_message(place, without), tokenizer):
                raise ValueError(f"the chat template leaves out the tool calls of message {place + 1}")


def _is_written(talk: Talk, place: int, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether the template writes a message: as it is, or in a form of its own (JSON, without its thinking)."""
    content = talk.messages[place]["content"].strip()
    if content in text:
        return True
    through = talk.upto(place + 1)
    other = through.with_message(place, {**talk.messages[place], "content": "another content"})
    return prompt_text(through, tokenizer) != prompt_text(other, tokenizer)
