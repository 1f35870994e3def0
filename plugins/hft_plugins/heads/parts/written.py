"""Hold a tokenized text with the places in it that are learned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hft_plugins.heads.parts.end_tokens import CUT
from hft_plugins.heads.parts.generation_head import NO_LABEL


@dataclass(frozen=True)
class Written:
    """A tokenized text for a decoder, with the spans that the loss covers."""

    ids: list[int]
    turns: list[tuple[int, int]]
    """(first token, one beyond the last) of each response; none where the first one is still to be written."""
    responses: list[str]
    """The text of each."""
    inputs: list[tuple[int, int]] = field(default_factory=list)
    """What the loss covers besides the responses (`train_on_inputs`)."""
    notes: list[str] = field(default_factory=list)
    """What a prediction would not continue, or not end, as it was learned."""

    def within(self, max_length: int) -> Written:
        """The text up to the end of the last turn that begins in time, and no longer than `max_length`."""
        turns = [(start, min(end, max_length)) for start, end in self.turns if start < max_length]
        ids = self.ids[: turns[-1][1]] if turns else self.ids
        notes = [*self.notes, CUT] if turns and turns[-1][1] < self.turns[len(turns) - 1][1] else self.notes
        return replace(self, ids=ids, turns=turns, responses=self.responses[: len(turns)], notes=notes)

    def labels(self) -> list[int]:
        """The token to learn at each position; `NO_LABEL` where there is none."""
        learned = {position for start, end in (*self.turns, *self.inputs) for position in range(start, end)}
        following = [token if place in learned else NO_LABEL for place, token in enumerate(self.ids)][1:]
        return [*following, NO_LABEL]
