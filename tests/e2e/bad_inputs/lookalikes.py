"""Data with what looks like a list, a table, a tag scheme or a class and is not quite one."""

from __future__ import annotations

import json

from .case import Case, Change, every, replace, write

CHECK = "validate recipe.yaml"
TEXTS = [f"the goal was number {i}" for i in range(12)]
LABELS = ["sport", "money"] * 6


def task(name: str, content: str, keys: str) -> Change:
    """Another head and data for the task `topic`."""
    changed = replace("recipe.yaml", "head: classification\n    data: news.csv", f"{keys}\n    data: {name}")
    return every(write(name, content.encode()), changed)


def table(cells: list[str], head: str = "classification", more: str = "") -> Change:
    """A csv file with these labels."""
    quoted = [cell.replace('"', '""') for cell in cells]
    lines = [f'{text},"{cell}"' for text, cell in zip(TEXTS, quoted, strict=True)]
    return task("odd.csv", "\n".join(["text,label", *lines, ""]), f"head: {head}{more}")


def tagged(tags: str, more: str = "") -> Change:
    """Sentences of which the eighth has these tags."""
    rows = [["B-A", "I-A", "O"]] * 7 + [tags.split()] + [["O", "O", "B-A"]] * 8
    lines = [json.dumps({"words": ["the", "cat", "saw"], "tags": row}) for row in rows]
    return task("odd.jsonl", "\n".join(lines) + "\n", f"head: token-classification{more}")


def lines(*made: str) -> Change:
    """A csv file of these lines."""
    return task("odd.csv", "\n".join(["text,label", *made, ""]), "head: classification")


ROWS = [f"{text},{label}" for text, label in zip(TEXTS, LABELS, strict=True)]
WHERE = "task 'topic' (…): odd.csv, row …: "

LISTS = [
    Case(
        what="labels as numpy prints them",
        given=table(["['sport' 'money']", "['sport']"] * 6, "multilabel"),
        command=CHECK,
        says="task 'topic': odd.csv, row 1: column 'label': found \"['sport' 'money']\", which looks like a numpy "
        "array: no "
        'comma is between its items; expected a list as JSON writes it: ["a", "b"] (and 5 more rows)',
    ),
    Case(
        what="labels as R writes them",
        given=table(['c("sport", "money")'] * 12, "multilabel"),
        command=CHECK,
        says="task 'topic': odd.csv, row 1: column 'label': found 'c(\"sport\", \"money\")', which looks like "
        "c(…), as a "
        'program prints it; expected a list as JSON writes it: ["a", "b"] (and 11 more rows)',
    ),
    Case(
        what="labels as PostgreSQL writes them",
        given=table(["{sport,money}"] * 12, "multilabel"),
        command=CHECK,
        says="task 'topic': odd.csv, row 1: column 'label': found '{sport,money}', which looks like a set, or an "
        "array of "
        'PostgreSQL; expected a list as JSON writes it: ["a", "b"] (and 11 more rows)',
    ),
    Case(
        what="labels between semicolons",
        given=table(["sport;money", "sport", "money;world", "world"] * 3, "multilabel"),
        command=CHECK,
        says="task 'topic' (train): odd.csv, row …: column 'label' holds the label '…;…', whose parts at ';' are "
        "labels "
        "too, and no row holds the separator ',': set separator: ';', or name all 'labels' if it is one",
    ),
    Case(
        what="labels between slashes",
        given=table(["sport/money", "sport", "money/world", "world"] * 3, "multilabel"),
        command=CHECK,
        says="task 'topic' (train): odd.csv, row …: column 'label' holds the label '…/…', whose parts at '/' are "
        "labels too, and no row holds the separator ',': set separator: '/', or name all 'labels' if it is one",
    ),
    Case(
        what="0 and 1 for each label, without their names",
        given=table(["[0, 1, 0]", "[1, 1, 0]"] * 6, "multilabel"),
        command=CHECK,
        says="task 'topic' (train): odd.csv, row …: column 'label' holds a list of 3 times 0 or 1 in each row "
        "(multi-hot); expected the names of the labels in each row, or the option 'labels' with 3 names, in order",
    ),
    Case(
        what="a label twice in a row",
        given=table(["sport,money", "sport,money,sport"] * 6, "multilabel"),
        command=CHECK,
        says=f"{WHERE}column 'label' holds the label 'sport' twice, expected each label once (and … more row…)",
    ),
    Case(
        what="a list where one label is expected",
        given=table(["['sport', 'money']", "['sport']"] * 6),
        command=CHECK,
        says="task 'topic': odd.csv, row 1: column 'label': found \"['sport', 'money']\", which is a list; "
        "expected one "
        "label (and 11 more rows)",
    ),
]

TABLES = [
    Case(
        what="rows between two stray quotes",
        given=lines(*ROWS[:3], f'"{ROWS[3]}', *ROWS[4:6], f'the end",{LABELS[6]}', *ROWS[7:]),
        command=CHECK,
        says="odd.csv, row 4 (line 5): cell 1 is in quotes and holds 4 lines with the cells of further rows, "
        "expected one "
        "row (…)",
    ),
    Case(
        what="a header among the rows",
        given=lines(*ROWS[:6], "text,label", *ROWS[6:]),
        command=CHECK,
        says="odd.csv, row 7 (line 8): repeats the header, expected a row below it (…)",
    ),
]

CLASSES = [
    Case(
        what="labels that look alike",
        given=table([*LABELS[:-1], "money\u200b"]),
        command=CHECK,
        says="task 'topic' (train): odd.csv, row 12: column 'label' holds the label 'money\\u200b', which looks "
        "like the "
        "label 'money' of other rows and would be another class; expected one spelling, or both named in 'labels'",
    ),
    Case(
        what="a name given twice in 'labels'",
        given=table(LABELS, more="\n    labels: [sport, money, sport]"),
        command=CHECK,
        says="recipe.yaml, line …, tasks.topic.…labels: …the name 'sport' is given twice (names 1 and 3)…",
    ),
    Case(
        what="a number beyond float32",
        given=table(["0.5", "1e39"] * 6, "regression"),
        command=CHECK,
        says="task 'topic': odd.csv, row 2: column 'label': found '1e39', expected a number that float32 can hold "
        "(at most "
        "3.4e+38) (and 5 more rows)",
    ),
    Case(
        what="a target whose square is beyond float32",
        given=table(["0.5", "1e30"] * 6, "regression"),
        command=CHECK,
        says=f"{WHERE}column 'label': found 1e+30, expected a number between -1e+15 and 1e+15, whose square is "
        "computed in "
        "float32: scale the column (and … more row…)",
    ),
]

TAGS = [
    Case(
        what="an odd tag among those of a scheme",
        given=tagged("O 0 O"),
        command=CHECK,
        says="task 'topic' (train): odd.jsonl, line 8: column 'tags', item 2: found the tag '0', expected a tag like "
        "'B-A' or 'I-A', as most are (scheme: plain, if each word's tag is meant by itself)",
    ),
    Case(
        what="a tag in another notation",
        given=tagged("O B_A O"),
        command=CHECK,
        says="task 'topic' (train): odd.jsonl, line 8: column 'tags', item 2: found the tag 'B_A', expected a tag "
        "like …",
    ),
    Case(
        what="tags of no one scheme",
        given=tagged("O U-A S-A"),
        command=CHECK,
        says="task 'topic' (train): odd.jsonl, line 8: column 'tags', item …: found the tag '…', but the letters B, I, "
        "S, U are of no one scheme (…)",
    ),
]

CASES = [*LISTS, *TABLES, *CLASSES, *TAGS]
