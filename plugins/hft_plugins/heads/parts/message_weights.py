"""Read from a conversation which of the assistant's messages are learned (`weight: 0` and its other names)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hft_core.data import as_number, shown

KEYS = (
    *("weight", "weights", "loss", "loss_weight", "loss_mask", "train", "training", "trainable"),
    *("train_on", "train_on_turn", "train_detail", "train_mask"),
)
"""Keys by which formats of other programs say whether a message is learned (OpenAI, Mistral, Axolotl, verl, slime)."""

UNCLEAR = ("mask", "masked", "ignore", "ignored", "skip", "exclude")
"""Keys of which programs differ in whether 1 is learned, or that are no format's."""

_BOOLEANS = {"true": True, "false": False}


def problem(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what is wrong with the weights of the messages, or an empty string."""
    for number, message in enumerate(messages, start=1):
        if unclear := next((key for key in UNCLEAR if message.get(key) is not None), None):
            return (
                f"message {number}: found the key {unclear!r}, which does not say whether the message is learned; "
                "expected weight: 0 for one that is not"
            )
        for key in _given(message):
            value, learned = message[key], _as_bool(message[key])
            if learned is None:
                return f"message {number}: found the {key} {shown(value)}, expected 0 or 1 (or false or true)"
            if learned and message["role"] != "assistant":
                return (
                    f"message {number}: found the {key} {shown(value)} of a message of the {message['role']}, but only "
                    "those of the assistant are learned; expected 0, or no such key"
                )
    if not any(is_learned(message) for message in messages if message["role"] == "assistant"):
        return "no message of the assistant is learned: each has the weight 0"
    return ""


def is_learned(message: Mapping[str, Any]) -> bool:
    """Return whether nothing keeps the message from being learned."""
    return all(_as_bool(message[key]) for key in _given(message))


def _given(message: Mapping[str, Any]) -> list[str]:
    return [key for key in KEYS if message.get(key) is not None]


def _as_bool(value: Any) -> bool | None:
    """Return a weight as true or false; None for any other."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    try:
        return {0.0: False, 1.0: True}.get(as_number(value))
    except ValueError:
        return None
