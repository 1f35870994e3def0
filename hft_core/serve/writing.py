"""Tell the pieces of a text while a head writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import TextStreamer

from hft_core.errors import RunError
from hft_core.head import Head


@dataclass
class Writing:
    """A text to be written after `row`, and who is told its pieces."""

    task: str
    row: Mapping[str, Any]
    tell: Callable[[str], None]
    stopped: Callable[[], bool]
    """Whether nobody reads any more."""


@contextmanager
def telling(head: Head, writing: Writing) -> Iterator[None]:
    """Make `head` tell what it writes inside. With several beams, a text is known at its end only: nothing is told."""
    writer: Any = head
    backbone = writer.backbone
    writer.backbone = _Telling(backbone, writing)
    try:
        yield
    finally:
        writer.backbone = backbone


class _Telling:
    """A backbone that tells what it generates."""

    def __init__(self, backbone: Any, writing: Writing) -> None:
        self._backbone, self._writing = backbone, writing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def generate(self, inputs: Mapping[str, Any], **settings: Any) -> Any:
        """As the backbone's own."""
        if settings.get("num_beams") in (None, 1):
            settings["streamer"] = _Pieces(self._backbone, self._writing)
        return self._backbone.generate(inputs, **settings)


class _Pieces(TextStreamer):
    """Receive tokens from `generate`, and tell whole words."""

    def __init__(self, backbone: Any, writing: Writing) -> None:
        # An encoder-decoder's first piece is the start token, which is a special one.
        super().__init__(backbone.tokenizer, skip_prompt=not backbone.encoder_decoder, skip_special_tokens=True)
        self._writing = writing

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Tell a piece. Raises `RunError` when nobody reads any more, which ends the generation."""
        if self._writing.stopped():
            raise RunError("the reader of the text has gone")
        if text:
            self._writing.tell(text)
