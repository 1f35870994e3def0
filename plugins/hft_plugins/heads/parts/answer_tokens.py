"""Find the tokens of an answer in the chunks of its context."""

from __future__ import annotations

from collections.abc import Sequence

from hft_plugins.heads.parts.token_overlap import Span, tokens_of, without_blanks

UNLEARNED = -100
"""Target of a chunk with a part of an answer that no chunk holds whole: neither it nor its absence is learned."""
NOT_HELD = (
    "the first answer is longer than a chunk or the overlap of two, so that no chunk holds it whole: it is not learned"
)
TOO_LONG = "the first answer has more than {} tokens (max_answer_length): it is learned, and never predicted"
NO_TOKEN = "the tokenizer leaves no token of the first answer: it is not learned"


def first_answer(answers: Sequence[str], starts: Sequence[int], context: str) -> Span | None:
    """Return the characters of the first answer, without blanks at its ends; None if there is no answer."""
    return without_blanks((starts[0], starts[0] + len(answers[0])), context) if answers else None


def answer_tokens(
    spans: Sequence[Span | None],
    of_row: Sequence[int],
    places: Sequence[tuple[list[int], list[int]]],
    longest: int | None = None,
) -> tuple[list[Span | None], dict[int, str]]:
    """Return the first and last token of the answer in each chunk (None for no answer), and notes on rows.

    `spans`: the answer's characters, of each row; `of_row` and `places`: the row and the tokens' places of each chunk;
    `longest`: tokens of the longest answer that is predicted.
    """
    offsets = [list(zip(*place, strict=True)) for place in places]
    answers = (spans[row] for row in of_row)
    tokens = [span and tokens_of(span, chunk) for span, chunk in zip(answers, offsets, strict=True)]
    reached = [t and (chunk[t[0]][0], chunk[t[1] - 1][1]) for t, chunk in zip(tokens, offsets, strict=True)]
    whole: dict[int, Span] = {}
    for row, part in zip(of_row, reached, strict=True):
        if part is not None:
            known = whole.get(row, part)
            whole[row] = (min(known[0], part[0]), max(known[1], part[1]))
    held = {row for row, part in zip(of_row, reached, strict=True) if part is not None and part == whole[row]}
    unheld = {row for row, span in enumerate(spans) if span is not None} - held
    found: list[Span | None] = []
    for row, token, part in zip(of_row, tokens, reached, strict=True):
        if row in unheld and (token is not None or row not in whole):
            found.append((UNLEARNED, UNLEARNED))
        else:
            found.append((token[0], token[1] - 1) if token is not None and part == whole[row] else None)
    notes = {row: NOT_HELD if row in whole else NO_TOKEN for row in unheld}
    if longest is not None:
        for row, answer in zip(of_row, found, strict=True):
            if answer is not None and answer[1] - answer[0] >= longest:
                notes.setdefault(row, TOO_LONG.format(longest))
    return found, notes
