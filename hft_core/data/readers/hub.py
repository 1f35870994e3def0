"""Read a data set of the Hugging Face hub with the library `datasets`, which runs no code that comes with one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset_builder
from huggingface_hub import constants, try_to_load_from_cache

from hft_core.data.rows import Rows, Source, dataset_of, refuse_odd_names
from hft_core.errors import DataError, did_you_mean

SCHEME = "hf://"
FORM = "hf://OWNER/NAME[@REVISION][:[CONFIG/]SPLIT]"
TABLES = ("parquet", "csv", "json", "text", "arrow")
"""Modules of `datasets` that read tables; others read images and the like."""
CACHE = "cache"
"""The module of `datasets` that reads what was prepared before, without the hub."""
_ADDRESS = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?:(?P<config>[^/:\[\]]+)/)?(?P<split>[\w.-]+))?",
)
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Address:
    """Which data set is meant, and which rows of it."""

    name: str
    revision: str | None
    config: str | None
    split: str | None


def is_address(path: str) -> bool:
    """Return whether `path` is to name a data set of the hub."""
    return path.startswith(SCHEME)


def parse(text: str) -> Address:
    """Parse an address. Raises `DataError`."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise DataError(f"{text}: expected {FORM}, for instance hf://fancyzhx/ag_news:train")
    return Address(**found.groupdict())


def read(text: str) -> Rows:
    """Download a data set, unless the cache of `datasets` has it, and read one split of it. Raises `DataError`."""
    address = parse(text)
    if Path(address.name).exists():
        raise DataError(
            f"{text}: the working directory has a '{address.name}', which datasets would read in its place; name that "
            "by its path, or work in another directory"
        )
    notes: list[str] = []
    try:
        with _without_warnings():
            builder = load_dataset_builder(address.name, address.config, revision=address.revision)
        module = type(builder).__module__.rpartition(".")[2]
        if module not in (*TABLES, CACHE):
            raise DataError(f"{text}: datasets reads it as '{module}', expected one of {', '.join(TABLES)}")
        if module == CACHE:
            _refuse_other_commit(text, address, builder.hash)
            notes.append(f"{text} was read from the cache of datasets (commit {builder.hash[:12]}), not from the hub")
        elif module in ("csv", "json"):
            notes.append(
                f"{text} consists of {module} files, in which datasets converts what looks like a number, a date or "
                "nothing (001 becomes 1)"
            )
        builder.download_and_prepare()
        dataset = builder.as_dataset(_split(text, address, list(builder.info.splits)))
    except DataError:
        raise
    except Exception as error:  # the library, the network and a stranger's files raise anything
        raise DataError(f"{text}: {_reason(error)}") from None
    return _rows(text, dataset, builder.hash, notes)


def _rows(text: str, dataset: Dataset, commit: str, notes: list[str]) -> Rows:
    source = Source(text, "row", commit)
    refuse_odd_names(dataset.column_names, source)
    if len(dataset) == 0 or not dataset.column_names:
        raise DataError(f"{text}: no data in it, expected at least one row")
    numbers = np.arange(1, len(dataset) + 1)
    return Rows(dataset_of(dataset.data.table), [source], np.zeros(len(dataset), np.int32), numbers, notes=notes)


def _split(text: str, address: Address, splits: list[str]) -> str:
    if address.split in splits or (len(splits) == 1 and not address.split):
        return address.split or splits[0]
    has = f"it has the splits {', '.join(map(repr, splits))}"
    if address.split:
        raise DataError(f"{text}: there is no split '{address.split}'; {has}.{did_you_mean(address.split, splits)}")
    first = f"{text}:{address.config + '/' if address.config else ''}{splits[0]}"
    raise DataError(f"{text}: {has}; name one of them, for instance '{first}'")


def _refuse_other_commit(text: str, address: Address, commit: str) -> None:
    """Raise `DataError` if the cache of `datasets`, which takes what was prepared last, has another revision."""
    wanted: Any = address.revision or constants.DEFAULT_REVISION
    if not _COMMIT.fullmatch(wanted):
        readme = try_to_load_from_cache(address.name, "README.md", revision=wanted, repo_type="dataset")
        if isinstance(readme, str):
            wanted = Path(readme).parent.name
        elif address.revision is None:
            return  # whatever is there
    if wanted != commit:
        raise DataError(
            f"{text}: the hub is not reached, and the cache of datasets has the commit {commit}; that it is "
            f"'{address.revision or wanted}' is not known: name the commit, or let the hub be asked"
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what `datasets` warns of when it takes its cache, which a note says."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split())[:300]
    if not constants.HF_HUB_OFFLINE:
        return told
    return (
        f"{told}; HF_HUB_OFFLINE is set, so only what the cache has is read: unset it, or give a folder that "
        "'save_to_disk' wrote"
    )
