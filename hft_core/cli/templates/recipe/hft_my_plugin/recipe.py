"""`my-plugin`: topics of short sentences, and their words.

Put your own recipe here: it is what a YAML file would hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from hft_core import options

ROWS = Path(__file__).with_name("topics.csv")


class Options(options.Options):
    """What can be chosen."""

    model: str = Field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        min_length=1,
        description="the encoder to start from: a local folder or a hub id",
    )
    max_steps: int = Field(default=60, gt=0, description="steps of training")


def build(options: Options, *, folder: Path) -> dict[str, Any]:
    """The recipe. Rows that have to be made or fetched first are written under `folder`."""
    return {
        "backbone": {"type": "hf-encoder", "model": options.model},
        "tasks": {
            "topic": {"head": "classification", "data": {"files": str(ROWS)}, "label": "topic"},
            "language": {"head": "mlm", "data": {"files": str(ROWS)}},
        },
        "stages": [
            {
                "name": "train",
                "tasks": ["topic", "language"],
                "strategy": "full",
                "combiner": "uncertainty",
                "max_steps": options.max_steps,
            }
        ],
    }
