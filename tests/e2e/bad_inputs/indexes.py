"""Folders that hold no index, a damaged one, or one that leads elsewhere."""

from __future__ import annotations

from pathlib import Path

from .case import Case, nothing, replace, shorten, write

SEARCH = "search index --query 'the bank'"
INDEX = ("done", "index")


def led_out(folder: Path) -> None:
    rows = folder / "index" / "rows.jsonl"
    rows.rename(folder / "moved.jsonl")
    rows.symlink_to(folder / "moved.jsonl")


CASES = [
    Case(
        what="no such index",
        given=nothing,
        command="search idnex --query 'the bank'",
        says="idnex: no such index folder; 'hft index' makes one",
    ),
    Case(
        what="a folder that holds no index",
        given=nothing,
        command="search model --query 'the bank'",
        says="model is no index, or was not wholly copied: it has no index.json",
    ),
    Case(
        what="an index.json that is no JSON",
        given=write("index/index.json", "{"),
        command=SEARCH,
        needs=INDEX,
        says="index/index.json cannot be read (…): make it anew with 'hft index'",
    ),
    Case(
        what="an index of another format",
        given=replace("index/index.json", '"format": 1', '"format": 9'),
        command=SEARCH,
        needs=INDEX,
        says="index/index.json has the format 9, expected 1: make it anew with 'hft index'",
    ),
    Case(
        what="vectors that were not wholly copied",
        given=shorten("index/vectors.npy"),
        command=SEARCH,
        needs=INDEX,
        says="index is damaged: vectors.npy …: make it anew with 'hft index'",
    ),
    Case(
        what="rows that are a link out of the index",
        given=led_out,
        command=SEARCH,
        needs=INDEX,
        says="index/rows.jsonl is a link out of the folder, to …",
    ),
    Case(
        what="a folder that is there already",
        given=nothing,
        command="index done --task topic --input news.csv --out model",
        needs=("done",),
        says="--out model is there already: expected the name of a new folder",
    ),
]
