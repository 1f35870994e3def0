"""Data that cannot be read, or that its task cannot learn from."""

from __future__ import annotations

import gzip
from pathlib import Path

from .case import Case, Change, every, line, nothing, replace, write

CHECK = "validate recipe.yaml"


def data(value: str) -> Change:
    """The data of the task `topic`."""
    return replace("recipe.yaml", "data: news.csv", f"data: {value}")


def file(name: str, content: str | bytes) -> Change:
    """Another data file for the task `topic`."""
    return every(write(name, content), data(name))


def task(keys: str) -> Change:
    """Another head and data for the task `topic`."""
    return replace("recipe.yaml", "head: classification\n    data: news.csv", keys)


def tagged(name: str, content: str) -> Change:
    return every(write(name, content), task(f"head: token-classification\n    data: {name}"))


def one_class(folder: Path) -> None:
    lines = (folder / "news.csv").read_text().splitlines()
    texts = [f"{row.rpartition(',')[0]},sport" for row in lines[1:]]
    (folder / "news.csv").write_text("\n".join([lines[0], *texts]) + "\n")


def dev_of_another_class(folder: Path) -> None:
    lines = (folder / "news.csv").read_text().splitlines()
    (folder / "dev.csv").write_text("\n".join([*lines[:3], "the keeper saw it,sports"]) + "\n")


def compressed_and_cut(folder: Path) -> None:
    content = gzip.compress((folder / "news.csv").read_bytes())
    (folder / "news.csv.gz").write_bytes(content[:-20])


PATHS = [
    Case(
        what="no such file",
        given=data("new.csv"),
        command=CHECK,
        says="task 'topic': there is no file 'new.csv'. Did you mean 'news.csv'?",
        process=True,
    ),
    Case(
        what="no file that matches",
        given=data("'*.jsonl'"),
        command=CHECK,
        says="task 'topic': no file matches '*.jsonl'",
    ),
    Case(
        what="a folder instead of a file",
        given=data("{files: model, format: csv}"),
        command=CHECK,
        says="model is a folder: name the files in it, for instance 'model/*.csv'",
    ),
    Case(
        what="a folder without classes",
        given=data("model"),
        command=CHECK,
        says="model/…: is directly in the folder, expected one subfolder of text files a class (texts without "
        "classes are named by a pattern, for instance 'model/*.txt')",
    ),
    Case(
        what="a file of no known format",
        given=file("news.docx", "x"),
        command=CHECK,
        says="task 'topic': news.docx has the suffix '.docx', which names no format; expected one of .csv, .tsv, …, or "
        "the key 'format' beside it",
    ),
    Case(
        what="files with other columns",
        given=every(write("more.csv", "text,topic\na,b\n"), data("[news.csv, more.csv]")),
        command=CHECK,
        says="task 'topic': news.csv and more.csv differ in the columns 'label', 'topic', expected the same columns in "
        "all files of a task",
    ),
    Case(
        what="a path with a NUL byte",
        given=data('"ne\\0ws.csv"'),
        command=CHECK,
        says="task 'topic': there is no file 'ne\\x00ws.csv'. Did you mean 'news.csv'?",
    ),
    Case(
        what="a path longer than any system takes",
        given=data("a" * 5000),
        command=CHECK,
        says="task 'topic': there is no file 'aaa…'.",
    ),
    Case(
        what="a data set of the hub, without a connection",
        given=data("hf://me/news:train"),
        command=CHECK,
        says="hf://me/news:train: …; HF_HUB_OFFLINE is set, so only what the cache has is read: unset it, or give a "
        "folder that 'save_to_disk' wrote",
    ),
    Case(
        what="a data set of the hub without its owner",
        given=data("hf://news"),
        command=CHECK,
        says="hf://news: expected hf://OWNER/NAME[@REVISION][:[CONFIG/]SPLIT], for instance hf://…",
    ),
    Case(
        what="a database that is none",
        given=data("{sql: 'SELECT * FROM news ORDER BY id', database: news.csv}"),
        command=CHECK,
        says="news.csv: expected a database of DuckDB or SQLite (its first bytes are of neither)",
    ),
    Case(
        what="a statement without an order",
        given=data("{sql: 'SELECT * FROM news', database: news.csv}"),
        command=CHECK,
        says="news.csv (sql): expected ORDER BY and columns that tell the rows apart: without it a database may return "
        "them in another order the next time, and the run would be another one, or not be resumed",
    ),
    Case(
        what="a statement that is no SELECT",
        given=data("{sql: DELETE FROM news, database: news.csv}"),
        command=CHECK,
        says="news.csv (sql): expected one SELECT statement, found 'DELETE FROM news'",
    ),
    Case(
        what="a statement without its database",
        given=data("{sql: SELECT * FROM news ORDER BY id}"),
        command=CHECK,
        says="recipe.yaml, line …, tasks.topic.data: 'sql' and 'database' go together",
    ),
]

TABLES = [
    Case(
        what="empty",
        given=write("news.csv", ""),
        command=CHECK,
        says="news.csv: the file is empty, expected a header with the names of the columns",
    ),
    Case(
        what="a header alone",
        given=write("news.csv", "text,label\n"),
        command=CHECK,
        says="news.csv: no data in it, expected at least one row",
    ),
    Case(
        what="a row too short",
        given=line("news.csv", 8, "the cat saw the dog"),
        command=CHECK,
        says="news.csv, row 7 (line 8): found 1 cells, expected 2 as in the header (a cell with the separator or a "
        "line break in it must be in double quotes)",
        process=True,
    ),
    Case(
        what="a row too long",
        given=line("news.csv", 8, "the cat, the dog,animals"),
        command=CHECK,
        says="news.csv, row 7 (line 8): found 3 cells, expected 2 as in the header (a cell with the separator or a "
        "line break in it must be in double quotes)",
    ),
    Case(
        what="a quote that is never closed",
        given=line("news.csv", 8, '"the cat,animals'),
        command=CHECK,
        says="news.csv, row 7 (line 8): not well-formed csv: a double quote is opened and never closed (…)",
    ),
    Case(
        what="Latin-1",
        given=line("news.csv", 8, "Gr\u00fc\u00dfe,animals".encode("latin-1")),
        command=CHECK,
        says="news.csv, line 8: not UTF-8 (byte 0xfc at position 3); convert the file, for instance: iconv -f "
        "OLD_ENCODING -t UTF-8 (…)",
    ),
    Case(
        what="a column twice",
        given=line("news.csv", 1, "label,label"),
        command=CHECK,
        says="news.csv: the header names the column 'label' twice",
    ),
    Case(
        what="a missing column",
        given=line("news.csv", 1, "text,lable"),
        command=CHECK,
        says="task 'topic': news.csv has no column 'label' (a label (text, a whole number or true/false) in each row); "
        "its columns are 'text', 'lable'. Did you mean 'lable'?",
    ),
    Case(
        what="semicolons between cells",
        given=file("other.csv", "text;label\na;b\n"),
        command=CHECK,
        says="task 'topic': other.csv has no column 'text' (a non-empty text in each row); its columns are "
        "'text;label'. The header is a single cell: cells are separated by commas in csv, by tabs in tsv.",
    ),
    Case(
        what="an empty cell",
        given=line("news.csv", 8, ",animals"),
        command=CHECK,
        says="task 'topic': news.csv, row 7: column 'text': found '', expected a non-empty text",
    ),
    Case(
        what="many empty cells",
        given=every(line("news.csv", 8, "the cat,"), line("news.csv", 9, ",")),
        command=CHECK,
        says="task 'topic': news.csv, row 7: column 'label': found '', expected a label (text, a whole number or "
        "true/false) (and 1 more row)",
    ),
    Case(
        what="a NUL byte in the header",
        given=line("news.csv", 1, "te\0xt,label"),
        command=CHECK,
        says="news.csv: the column name 'te\\x00xt' contains a line break or another control character",
    ),
    Case(
        what="NUL bytes alone",
        given=write("news.csv", b"\0" * 1000),
        command=CHECK,
        says="news.csv: no data in it, expected at least one row",
    ),
    Case(
        what="a line of 4 million characters",
        given=line("news.csv", 8, "x" * 4_000_000),
        command=CHECK,
        says="news.csv, row 7 (line 8): found 1 cells, expected 2 as in the header (…)",
    ),
    Case(
        what="gzip cut short",
        given=every(compressed_and_cut, data("news.csv.gz")),
        command=CHECK,
        says="news.csv.gz: cannot be read: Compressed file ended before the end-of-stream marker was reached",
    ),
    Case(
        what="called gzip and is none",
        given=file("other.csv.gz", "text,label\na,b\n"),
        command=CHECK,
        says="other.csv.gz: cannot be read: Not a gzipped file (b'te')",
    ),
    Case(
        what="called parquet and is none",
        given=file("news.parquet", "text,label\na,b\n"),
        command=CHECK,
        says="news.parquet: cannot be read as parquet: …",
    ),
]

JSON = [
    Case(
        what="JSON broken in a line",
        given=file("news.jsonl", '{"text": "a", "label": "b"}\n{"text": "b"\n'),
        command=CHECK,
        says="news.jsonl, line 2: not valid JSON: Expecting ',' delimiter (column 13)",
    ),
    Case(
        what="JSON lines called json",
        given=file("news.json", '{"text": "a"}\n{"text": "b"}\n'),
        command=CHECK,
        says="news.json: not valid JSON: Extra data (line 2, column 1); one object a line is the format jsonl",
    ),
    Case(
        what="JSON that is no list",
        given=file("news.json", '{"text": "a"}'),
        command=CHECK,
        says="news.json: expected a list of objects, found an object",
    ),
    Case(
        what="a list in JSON lines",
        given=file("news.jsonl", '{"text": "a"}\n["b"]\n'),
        command=CHECK,
        says="news.jsonl, line 2: expected an object with the columns as its keys, found a list",
    ),
    Case(
        what="JSON nested without end",
        given=file("news.json", "[" * 100_000),
        command=CHECK,
        says="news.json: JSON that cannot be read: …",
    ),
    Case(
        what="a number of 5,000 digits",
        given=file("news.jsonl", '{"text": ' + "9" * 5000 + "}\n"),
        command=CHECK,
        says="news.jsonl, line 1: JSON that cannot be read: …digits…",
    ),
    Case(
        what="texts and numbers mixed",
        given=file("news.jsonl", '{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n'),
        command=CHECK,
        says="task 'topic': news.jsonl, line 2: column 'text': found 3, expected a non-empty text",
    ),
    Case(
        what="half of a surrogate pair",
        given=file("news.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud800", "label": "y"}\n'),
        command=CHECK,
        says="task 'topic': news.jsonl, line 2: column 'text': found '\\ud800', expected a non-empty text",
    ),
    Case(
        what="a list where a label is wanted",
        given=file("news.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": ["y"]}\n'),
        command=CHECK,
        says="task 'topic': news.jsonl, line 2: column 'label': found ['y'], expected a label (text, a whole number or "
        "true/false)",
    ),
]

TASKS = [
    Case(
        what="too few rows",
        given=file("few.csv", "text,label\na,x\nb,y\n"),
        command=CHECK,
        says="task 'topic': 2 rows are too few for a split into 3 parts, which needs one each: give more rows, or "
        "shares "
        "of 0 for dev or test",
    ),
    Case(
        what="one class only",
        given=one_class,
        command=CHECK,
        says="task 'topic', train: column 'label' has one class only ('sport'); expected two or more",
    ),
    Case(
        what="a label in dev that train lacks",
        given=every(dev_of_another_class, data("{train: news.csv, dev: dev.csv}")),
        command=CHECK,
        says="task 'topic' (dev): dev.csv, row 3: column 'label' holds the unknown label 'sports'; expected one of "
        "the 3 "
        "labels of the training rows. Did you mean 'sport'?",
    ),
    Case(
        what="a label that the recipe does not list",
        given=task("head: classification\n    labels: [animals, money]\n    data: news.csv"),
        command=CHECK,
        says="task 'topic' (train): news.csv, row …: column 'label' holds the unknown label 'sport'; …",
    ),
    Case(
        what="not a number",
        given=task("head: regression\n    label: label\n    data: news.csv"),
        command=CHECK,
        says="task 'topic': news.csv, row 1: column 'label': found '…', expected a finite number (and 23 more rows)",
    ),
    Case(
        what="infinite",
        given=every(
            task("head: regression\n    data: scores.csv"), write("scores.csv", "text,label\na,1\nb,2\nc,inf\nd,3\n")
        ),
        command=CHECK,
        says="task 'topic': scores.csv, row 3: column 'label': found 'inf', expected a finite number",
    ),
    Case(
        what="a split by a column that there is not",
        given=data("{files: news.csv, split: {by: source}}"),
        command=CHECK,
        says="task 'topic': news.csv has no column 'source' ('by' of the split); its columns are 'text', 'label'.",
    ),
    Case(
        what="a sentence with a token too few columns",
        given=tagged("tags.conll", "EU B-ORG\nrejects\n\n"),
        command=CHECK,
        says="tags.conll, line 2: found 1 columns, expected 2 as in line 1 (one token a line, columns divided by "
        "tabs or "
        "blanks, a blank line after each sentence)",
    ),
    Case(
        what="fewer tags than words",
        given=tagged(
            "tags.jsonl", '{"words": ["a", "b"], "tags": ["O"]}\n' + '{"words": ["a"], "tags": ["B-X"]}\n' * 5
        ),
        command=CHECK,
        says="task 'topic' (…): tags.jsonl, line 1: columns 'words' and 'tags' differ in length: found 2 words and 1 "
        "tags, expected one tag a word",
    ),
    Case(
        what="an answer that is not in its context",
        given=every(
            write(
                "qa.jsonl",
                '{"question": "q", "context": "the cat", "answers": {"text": ["dog"], "answer_start": [0]}}\n' * 4,
            ),
            task("head: span\n    data: qa.jsonl"),
        ),
        command=CHECK,
        says="task 'topic' (train): qa.jsonl, line 1: column 'answers.answer_start': found 'the' at character 0 of the "
        "context, expected the answer 'dog' (the context does not hold that answer) (and 1 more row)",
    ),
    Case(
        what="a role that there is not",
        given=every(
            write("chat.jsonl", '{"messages": [{"role": "bot", "content": "hello"}]}\n' * 4),
            task("head: instruction\n    messages: messages\n    data: chat.jsonl"),
        ),
        command=CHECK,
        says="task 'topic': chat.jsonl, line 1: column 'messages': message 1: found the role 'bot', expected one of "
        "system, user, assistant, tool (and 3 more rows)",
    ),
    Case(
        what="a weight of a message that is neither 0 nor 1",
        given=every(
            write(
                "chat.jsonl",
                '{"messages": [{"role": "user", "content": "hello"}, '
                '{"role": "assistant", "content": "hi", "weight": 0.5}]}\n' * 4,
            ),
            task("head: instruction\n    messages: messages\n    data: chat.jsonl"),
        ),
        command=CHECK,
        says="task 'topic' (train): chat.jsonl, line …: column 'messages': message 2: found the weight 0.5, expected 0 "
        "or 1 (or false or true) (and 1 more row)",
    ),
    Case(
        what="a tool without a name",
        given=every(
            write(
                "chat.jsonl",
                '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}], '
                '"tools": [{"type": "function"}]}\n' * 4,
            ),
            task("head: instruction\n    messages: messages\n    tools: tools\n    data: chat.jsonl"),
        ),
        command=CHECK,
        says="task 'topic': chat.jsonl, line 1: column 'tools': tool 1: found {'type': 'function'}, expected the JSON "
        "schema of a function, {name, parameters} (and 3 more rows)",
    ),
    Case(
        what="labels of choices that are texts and places",
        given=every(
            write("quiz.jsonl", '{"choices": ["1", "2", "3"], "label": "2"}\n' * 4),
            task("head: multiple-choice\n    data: quiz.jsonl"),
        ),
        command=CHECK,
        says="task 'topic', train: column 'label': each label is a number and also the text of one of its row's "
        "choices (such as '2'); expected 'label_is: text', or 'index' or 'number' for places from 0 or 1",
    ),
    Case(
        what="texts without a token",
        given=every(write("articles.txt", "\u200b\u200b\n" * 4), task("head: mlm\n    data: articles.txt")),
        command=CHECK,
        says="task 'topic' (train): articles.txt, line …: the tokenizer of the backbone leaves no token of the text "
        "that it knows, and so in every row; expected texts in a language and script of the backbone",
    ),
    Case(
        what="texts without a word",
        given=write("articles.txt", " \n\n"),
        command=CHECK,
        says="articles.txt: no data in it, expected at least one line",
    ),
    Case(
        what="rows to predict on without their column",
        given=write("in.csv", "txt\na\n"),
        needs=("done",),
        command="predict done --task topic --input in.csv",
        says="task 'topic' (input): in.csv has no column 'text' (a non-empty text in each row); its columns are 'txt'. "
        "Did you mean 'txt'?",
    ),
    Case(
        what="rows to evaluate on with an unknown label",
        given=write("in.csv", "text,label\na,sprot\n"),
        needs=("done",),
        command="evaluate done --task topic --data in.csv",
        says="task 'topic' (input): in.csv, row 1: column 'label' holds the unknown label 'sprot'; expected one of "
        "the 3 "
        "labels of the training rows. Did you mean 'sport'?",
    ),
    Case(
        what="rows to evaluate on without labels",
        given=nothing,
        needs=("done",),
        command="evaluate done --task topic --data articles.txt",
        says="task 'topic' (input): articles.txt has no column 'label' (a label (text, a whole number or true/false) "
        "in each row); its columns are 'text'.",
    ),
    Case(
        what="rows of a finished run that have gone",
        given=replace("done/recipe.yaml", "news.csv", "gone.csv"),
        needs=("done",),
        command="evaluate done",
        says="task 'topic': there is no file 'gone.csv'. Did you mean 'news.csv'?",
    ),
]

CASES = [*PATHS, *TABLES, *JSON, *TASKS]
