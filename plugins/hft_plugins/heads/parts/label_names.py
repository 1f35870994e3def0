"""Class names: their order, how an unknown one is reported, and what a saved model's configuration says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hft_core.errors import did_you_mean


def in_order(labels: Iterable[str]) -> list[str]:
    """Numbers by their value, so that 2 comes before 10; all others behind them, by their text."""
    return sorted(labels, key=_key)


def _key(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def unknown(what: str, label: str, labels: Sequence[str]) -> str:
    """What is wrong with a `label` that is none of `labels`."""
    return (
        f"{what} the unknown label '{label}'; expected one of the {len(labels)} labels of the training rows."
        f"{did_you_mean(label, labels)}"
    )


def config_of(labels: Sequence[str]) -> dict[str, Any]:
    """The labels in the words of transformers' configurations."""
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
