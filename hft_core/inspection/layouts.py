"""Recognize layouts in which columns belong together: conversations, tags, spans, choices, candidates, written texts.

A layout is a function from the columns of a file to the tasks for it, none where the file does not have the layout.
`propose` asks them in order, so that the more specific ones come first; a new layout is a function and an entry there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hft_core.inspection import column_names as names
from hft_core.inspection import labeled_texts
from hft_core.inspection.column_names import plain_name
from hft_core.inspection.column_profile import is_tag
from hft_core.inspection.proposal import Proposal, Table

Layout = Callable[[Table], list[Proposal]]

REPEATED = 0.7
"""Rows of candidates: a query is in several rows, so that there are fewer queries than this share of the rows."""
WRITTEN_RATIO = 3
"""A text that is so many times as long as another one is its source rather than its partner."""


def conversations(table: Table) -> list[Proposal]:
    """Lists of messages."""
    return [
        Proposal(
            "instruction", {"messages": name}, f"'{name}' holds conversations: the loss is on the assistant's turns"
        )
        for name in table.of("messages")[:1]
    ]


def tagged_words(table: Table) -> list[Proposal]:
    """Words with one tag each."""
    tags = table.of("tags") or [n for n in table.of("words", "numbers") if re.search("tag|label", plain_name(n))]
    if not tags:
        return []
    tag = next((name for name in ("tags", *tags) if name in tags), tags[0])
    items = [_length(value) for value in table[tag].values]
    words = [
        name
        for name in table.of("words", "texts", "text")
        if name not in tags and [_length(value) for value in table[name].values] == items
    ]
    word = names.first_named(words, names.WORDS) or (words[0] if words else None)
    if word is None:
        return []
    bio = any(is_tag(item) and item != "O" for value in table[tag].present for item in _items(value))
    others = [name for name in tags if name != tag and [_length(v) for v in table[name].values] == items]
    unsure = [f"the other tags ({', '.join(map(repr, others))}) are not learned: each would be a task of its own"]
    numbered = f"the tags of '{tag}' are numbers: their scheme is unknown, so that they are scored one by one"
    why = f"'{tag}' has a tag{' of a chunk scheme' if bio else ''} for each word of '{word}'"
    doubts = (*(unsure if others and tag != "tags" else ()), *((numbered,) if table[tag].kind == "numbers" else ()))
    return [Proposal("token-classification", {"words": word, "tags": tag}, why, doubts, (word,), tag)]


def spans(table: Table) -> list[Proposal]:
    """A question, a text, and the place of the answer in it."""
    question = names.first_named(table.of("text"), names.QUESTION)
    context = names.first_named([n for n in table.of("text") if n != question], names.CONTEXT)
    starts = [c.name for c in table.columns if plain_name(c.name).rpartition("_")[2] == "start"]
    if question is None or context is None or not starts:
        return []
    start = starts[0]
    above = start.rpartition(".")[0]
    answers = [f"{above}.text"] if above else ["answer", "answer_text", "answers", "text"]
    answer = next((c.name for name in answers for c in table.columns if c.name == name), None)
    if answer is None:
        return []
    options: dict[str, Any] = {"question": question, "context": context, "answer": answer, "answer_start": start}
    without = any(not _items(value) for value in table[answer].values)
    if without:
        options["version_2_with_negative"] = True
    why = f"'{start}' is where the answer to '{question}' begins in '{context}'"
    return [Proposal("span", options, why + (", and some rows have none" if without else ""), (), (context, question))]


def choices(table: Table) -> list[Proposal]:
    """Choices of which one is right."""
    listed = names.first_named(table.of("texts", "words"), names.CHOICES)
    columns = _numbered(table.of("text", "label", "id", "number"))
    labels = [
        n for n in table.of("label", "number", "text")
        if n not in columns and (names.is_named(n, names.LABEL) or plain_name(n) in names.RIGHT)
    ]  # fmt: skip
    if not labels or not (listed or len(columns) > 1):
        return []
    label = labels[0]
    texts = [n for n in table.texts if n not in columns and n != label]
    text = names.first_named(texts, names.ASKED) or (texts[0] if texts else None)
    options: dict[str, Any] = {"text": text} if text else {}
    options["choices"] = listed or columns
    options["label"] = label
    values = {str(value).strip() for value in table[label].present}
    unsure: tuple[str, ...] = ()
    if values <= set("ABCDEFGH"):
        options["label_is"] = "letter"
    elif values <= set("12345678") and "0" not in values and len(values) > 1:
        options["label_is"] = "number"
        unsure = (f"no '{label}' is 0, so that it is read as counted from 1 (label_is: index counts from 0)",)
    why = f"'{label}' says which of the choices is right"
    return [Proposal("multiple-choice", options, why, unsure, (text,) if text else (), label)]


def candidates(table: Table) -> list[Proposal]:
    """The candidates of queries, with a relevance."""
    query = names.first_named(table.of("text", "label"), names.SEARCHED)
    if query is None or table[query].distinct > REPEATED * len(table[query].present):
        return []
    document = names.first_named([n for n in table.of("text") if n != query], names.DOCUMENTS)
    scores = [
        n for n in table.of("number") if names.is_named(n, names.NUMBER | names.LABEL) or "click" in plain_name(n)
    ]
    if document is None or not scores:
        return []
    options = {"query": query, "document": document, "label": scores[0]}
    why = f"'{query}' is in several rows, with a '{document}' and its relevance '{scores[0]}' in each"
    return [Proposal("ranking", options, why, (), (query, document), scores[0])]


def embedding_pairs(table: Table) -> list[Proposal]:
    """Texts that belong together, with or without others that do not."""
    texts = table.of("text", "texts")
    negatives = [n for n in texts if re.sub(r"_?\d+$", "", plain_name(n)) in names.NEGATIVES]
    anchor, positive = names.first_named(texts, names.ANCHORS), names.first_named(texts, names.POSITIVES)
    if anchor is None or positive is None or table[positive].kind != "text":
        return []
    options: dict[str, Any] = {"text": [anchor, positive]}
    if negatives:
        options["negatives"] = negatives[0] if table[negatives[0]].kind == "texts" else negatives
    beside = f" and not to {', '.join(map(repr, negatives))}" if negatives else ""
    why = f"'{anchor}' belongs to '{positive}'{beside}: embeddings that are near for what belongs together"
    return [Proposal("contrastive", options, why, (), (anchor, positive))]


def written_texts(table: Table) -> list[Proposal]:
    """A text that is to be written from another one."""
    if table.of("number", "label") and not table.pair([("prompt", "chosen")]):
        named = [n for n in table.of("number", "label") if names.is_named(n, names.LABEL | names.NUMBER)]
        if named:
            return []
    translated = [n for n in table.of("text") if plain_name(n).rpartition("_")[2] in names.LANGUAGES]
    if len(translated) == 2:
        source, target = translated
        return [
            Proposal("seq2seq", {"source": source, "target": target}, f"'{target}' is a translation of '{source}'",
                     (f"the direction: exchange source and target to write '{source}'",), (source,), target)
        ]  # fmt: skip
    for known, head, why in (
        (names.WRITTEN, "seq2seq", "'{target}' is to be written from '{source}'"),
        (names.ANSWERED, "instruction", "'{target}' is the answer to '{source}'"),
    ):
        if found := table.two(known):
            source, target = found
            options = {"source": source, "target": target}
            if head == "instruction":
                options = {"prompt": source, "response": target}
            return [
                Proposal(
                    head, options, why.format(source=source, target=target), _left(table, found), (source,), target
                )
            ]
    return []


def two_texts(table: Table) -> list[Proposal]:
    """Two texts without a label."""
    if len(table.texts) != 2 or table.of("label", "number", "words", "texts"):
        return []
    if found := table.pair(names.PAIRS) or table.two(names.ALIKE):
        why = f"'{found[0]}' and '{found[1]}' belong together and have no label: embeddings that are near for them"
        return [Proposal("contrastive", {"text": list(found)}, why, (), found)]
    one, other = table.texts
    if table[other].length > table[one].length:
        one, other = other, one
    if table[one].length >= WRITTEN_RATIO * table[other].length:
        why = f"'{one}' is much longer than '{other}', which is to be written from it"
        doubt = f"whether '{other}' is to be written at all; as a pair that belongs together it were a contrastive task"
        return [Proposal("seq2seq", {"source": one, "target": other}, why, (doubt,), (one,), other)]
    why = "two texts of about the same length and no label: embeddings that are near for such pairs"
    doubt = "whether the two texts belong together; to write one from the other, take the head seq2seq or instruction"
    return [Proposal("contrastive", {"text": table.texts}, why, (doubt,), tuple(table.texts))]


LAYOUTS: tuple[Layout, ...] = (
    conversations,
    tagged_words,
    spans,
    choices,
    candidates,
    embedding_pairs,
    written_texts,
    two_texts,
    labeled_texts.propose,
)
"""In the order in which they are asked."""


def propose(table: Table) -> list[Proposal]:
    """Return the tasks for the columns of a file, of the first layout that it has; none if it has none."""
    return next((found for layout in LAYOUTS if (found := layout(table))), [])


def _items(value: object) -> list[object]:
    if isinstance(value, str):
        return list(value.split())
    return value if isinstance(value, list) else []


def _length(value: object) -> int:
    return len(_items(value))


def _numbered(columns: list[str]) -> list[str]:
    """Return the columns that differ only in a number or letter at the end: `ending0`, `ending1`; `A`, `B`."""
    letters = [n for n in columns if re.fullmatch("[A-Ha-h]", n)]
    if len(letters) > 1:
        return letters
    stems: dict[str, list[str]] = {}
    for name in columns:
        if match := re.fullmatch(
            r"(ending|choice|option|answer|sol|candidate|mc|answer_choice)_?([0-9]|[A-Ha-h])", name
        ):
            stems.setdefault(match[1], []).append(name)
    return max(stems.values(), key=len, default=[])


def _left(table: Table, used: tuple[str, ...]) -> tuple[str, ...]:
    left = [name for name in table.texts if name not in used]
    return (f"what the texts in {', '.join(map(repr, left))} are for: they are not read",) if left else ()
