"""Data with what looks like a list, a table, a tag scheme or a class and is not quite one."""

from __future__ import annotations

import json
from typing import Any

from .case import Case, Change, every, replace, write

CHECK = "validate recipe.yaml"
TEXTS = [f"the goal was number {i}" for i in range(12)]
LABELS = ["sport", "money"] * 6


def task(name: str, content: str, keys: str, data: str = "") -> Change:
    """Another head and data for the task `topic`."""
    changed = replace("recipe.yaml", "head: classification\n    data: news.csv", f"{keys}\n    data: {data or name}")
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
        what="labels between blanks",
        given=table(["sport money", "sport", "money"] * 4, "multilabel"),
        command=CHECK,
        says="task 'topic' (train): odd.csv, row …: column 'label' holds the label '… …', whose parts at ' ' are "
        "labels too, and no row holds the separator ',': set separator: ' ', or name all 'labels' if it is one",
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
    Case(
        what="a group that is missing in some rows",
        given=task(
            "odd.csv",
            "\n".join(["text,label,user", *(f"{row},{i if i % 3 else ''}" for i, row in enumerate(ROWS)), ""]),
            "head: classification",
            "{files: odd.csv, split: {by: user}}",
        ),
        command=CHECK,
        says="task 'topic': odd.csv, row 1: column 'user' of 'by': found '' (and 3 more rows), from which it is not "
        "known which rows belong together; expected a value in each row",
    ),
    Case(
        what="a header of one cell",
        given=write("odd.csv", "text;label\nthe goal;sport\nthe bank;money\n"),
        command="init odd.csv --out new.yaml",
        says="odd.csv: the header 'text;label' is a single cell: cells are separated by commas in csv, by tabs in tsv",
    ),
    Case(
        what="no header",
        given=write("odd.csv", "\n".join([*ROWS, ""])),
        command="init odd.csv --out new.yaml",
        says="odd.csv: the first line ('the goal was number 0', 'sport') looks like a row, expected a header with the "
        "names of the columns above it",
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

COMMAS = [{"words": "the cat saw", "tags": "B-A, I-A, O"}] * 12
SINGLE = [{"words": [word], "tags": [tag]} for word, tag in [("the", "O"), ("cat", "B-A")] * 16]
NUMBERED = "1\tthe\tO\n2\tcat\tB-A\n\n" * 12
TAGS_FIRST = "O\tthe\nB-A\tcat\n\n" * 12


def jsonl(rows: list[dict[str, Any]], keys: str) -> Change:
    """A file of these objects."""
    return task("odd.jsonl", "".join(json.dumps(row) + "\n" for row in rows), keys)


SENTENCES = [
    Case(
        what="tags divided at commas",
        given=jsonl(COMMAS, "head: token-classification"),
        command=CHECK,
        says="task 'topic': odd.jsonl, line 1: column 'tags': found 'B-A, I-A, O', which looks like a list divided at "
        '\',\', not at blanks; expected a list as JSON writes it: ["a", "b"] (and 11 more rows)',
    ),
    Case(
        what="a word a row",
        given=jsonl(SINGLE, "head: token-classification"),
        command=CHECK,
        says="task 'topic' (train): odd.jsonl, line …: column 'words': each of the … rows has one word ('…'), expected "
        "a sentence a row: …",
    ),
    Case(
        what="a CoNLL file whose first column numbers the words",
        given=task("odd.conll", NUMBERED, "head: token-classification"),
        command=CHECK,
        says="task 'topic' (train): odd.conll, line …: column 'words' holds the numbers of the words (1, 2, …), "
        "expected the words (of a CoNLL file whose first column numbers them: words: column_2)",
    ),
    Case(
        what="a CoNLL file whose tags come first",
        given=task("odd.conll", TAGS_FIRST, "head: token-classification"),
        command=CHECK,
        says="task 'topic' (train): odd.conll, line …: column 'words' holds tags and column 'tags' none: exchange the "
        "two (of a CoNLL file whose tags come first: words: column_2, tags: words)",
    ),
]

TEACHES_NOTHING = [
    Case(
        what="queries whose candidates are equally relevant",
        given=jsonl(
            [{"query": f"the goal {i // 2}", "document": f"the bank {i}", "label": i // 2 % 2} for i in range(24)],
            "head: ranking\n    loss: pairwise",
        ),
        command=CHECK,
        says="task 'topic', train: column 'label': in no query do two candidates differ in relevance, from which alone "
        "the loss 'pairwise' learns",
    ),
    Case(
        what="pairs with one and the same positive",
        given=jsonl(
            [{"one": f"the goal {i}", "two": "the bank"} for i in range(24)],
            "head: contrastive\n    text: [one, two]",
        ),
        command=CHECK,
        says="task 'topic', train: column 'two': all … rows have the same text, expected different positives: each "
        "anchor's is told apart from those of the others",
    ),
]

CASES = [*LISTS, *TABLES, *CLASSES, *TAGS, *SENTENCES, *TEACHES_NOTHING]
