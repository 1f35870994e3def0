from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hft_core.data import arrow, examples, loading, token_cache, token_cache_key
from hft_core.data.examples import Examples
from hft_core.data.rows import Rows
from hft_core.data.token_cache import TokenCache
from hft_core.head import Draw
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import Resolved, resolve
from hft_core.runs import assembly
from hft_core.runtime import cache
from hft_plugins.heads.classification import Classification

TASK = "topic"


class Opened:
    """A tiny encoder with a head on it, and its rows."""

    def __init__(self, model: Path, rows: list[dict[str, Any]], head: dict[str, Any] | None = None) -> None:
        recipe = {
            "backbone": {"model": str(model)},
            "tasks": {TASK: {"head": head or {"type": "classification"}}},
            "stages": [{"strategy": "full", "max_steps": 1}],
        }
        self.resolved: Resolved = resolve(recipe_file.from_dict(recipe), Catalogue.discover())
        heads = assembly.build_heads(self.resolved)
        self.rows: Rows = assembly.load_rows(self.resolved, heads, {TASK: {"train": rows}})[TASK]["train"]
        backbone = assembly.open_backbone(self.resolved, trust_remote_code=False)
        self.model: HybridModel = assembly.attach(backbone, heads)

    @property
    def tokenizer(self) -> Any:
        return self.model.backbone.tokenizer

    def encode(self, max_length: int = 32, *, kept: bool = True, **more: Any) -> Examples:
        tokens = TokenCache(self.model.backbone, self.resolved.backbone, self.resolved.heads) if kept else None
        return examples.encode(self.rows, self.model.head(TASK), self.tokenizer, max_length, cache=tokens, **more)


Open = Callable[..., Opened]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "cache"))
    monkeypatch.setattr(token_cache, "MIN_ROWS", 1)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each call of the head's `encode`."""
    made: list[int] = []
    plain = Classification.encode

    def counted(self: Classification, rows: Any, tokenizer: Any, max_length: int) -> Any:
        made.append(len(rows["text"]))
        return plain(self, rows, tokenizer, max_length)

    monkeypatch.setattr(Classification, "encode", counted)
    return made


@pytest.fixture
def opened(models: Any, toys: ModuleType) -> Open:
    def make(count: int = 30, change: Callable[[list[dict[str, Any]]], Any] | None = None, **head: Any) -> Opened:
        rows = toys.rows(count)
        if change:
            change(rows)
        return Opened(models["bert"], rows, {"type": "classification", **head})

    return make


def drawn(found: Examples, opened: Opened) -> tuple[Any, ...]:
    ids = np.random.default_rng(0).permutation(len(found)).tolist()
    part = found.draw(ids, opened.model.head(TASK), Draw(0, 0))
    return part.sequences, part.extra, part.targets.tensors["target"].tolist(), found.content_digest


def test_a_second_run_does_not_tokenize(place: Path, calls: list[int], opened: Open) -> None:
    first = opened()
    before = drawn(first.encode(), first)
    assert calls == [30]
    second = opened()
    assert drawn(second.encode(), second) == before
    assert calls == [30]
    assert len(list(place.iterdir())) == 1


def test_what_is_kept_equals_what_is_not(place: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "ENCODE_ROWS", 7)
    monkeypatch.setattr(arrow, "PART_BYTES", 2000)  # several files
    run = opened()
    plain = drawn(run.encode(kept=False), run)
    assert drawn(run.encode(), run) == drawn(run.encode(), run) == plain
    (entry,) = place.iterdir()
    assert len(list(entry.glob("*.arrow"))) > 1
    few = np.array([3, 17, 5])
    assert run.encode().of(few).rows.tolist() == [3, 17, 5]
    assert drawn(run.encode().of(few), run) == drawn(run.encode(kept=False).of(few), run)


def _other_text(rows: list[dict[str, Any]]) -> None:
    rows[7]["text"] += " the"


def _other_order(rows: list[dict[str, Any]]) -> None:
    rows.reverse()


@pytest.mark.parametrize(
    ("again", "length"),
    [
        ({"change": _other_text}, 32),
        ({"change": _other_order}, 32),
        ({"count": 29}, 32),
        ({"text": ["text", "other"]}, 32),
        ({"labels": ["sport", "money", "animals"]}, 32),
        ({"label": "fits"}, 32),
        ({}, 16),
    ],
)
def test_whatever_encode_depends_on_makes_it_tokenize_anew(
    again: dict[str, Any], length: int, place: Path, calls: list[int], opened: Open
) -> None:
    opened().encode()
    opened(**again).encode(length)
    assert len(calls) == 2
    assert len(list(place.iterdir())) == 2


def test_another_tokenizer_makes_it_tokenize_anew_and_what_the_last_call_cut_does_not(
    place: Path, calls: list[int], opened: Open
) -> None:
    opened().encode()
    run = opened()
    run.tokenizer(["the cat saw the dog"], truncation=True, max_length=3, padding="max_length")
    run.encode()
    assert len(calls) == 1
    run = opened()
    run.tokenizer.add_tokens(["<new>"])
    run.encode()
    assert len(calls) == 2


def test_other_label_names_and_rows_without_targets_are_kept_apart(place: Path, calls: list[int], opened: Open) -> None:
    opened().encode()
    run = opened()
    run.model.head(TASK).facts["labels"].reverse()
    run.encode()
    run.encode(with_targets=False)
    assert len(calls) == 3


def test_other_code_makes_it_tokenize_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "heads.py").write_text("from some_package.texts import Base\n\nclass Mine(Base): ...\n")
    (package / "texts.py").write_text("class Base: ...\n")
    (package / "unused.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    from some_package.heads import Mine  # type: ignore[import-not-found]

    found = []
    for text in ("", "CHANGED = 1\n"):
        (package / "unused.py").write_text(text)
        token_cache_key._hash_package.cache_clear()
        found.append(token_cache_key.hash_code(Mine))
    assert None not in found
    assert found[0] != found[1]
    Mine.__module__ = "__nowhere__"
    assert token_cache_key.hash_code(Mine) is None


def test_a_file_that_an_option_names_counts_by_its_content(tmp_path: Path, opened: Open) -> None:
    words = tmp_path / "words.txt"
    words.write_text("one")
    run = opened(count=6, labels=["animals", "money", "sport", str(words)])
    head, chosen = run.model.head(TASK), run.resolved.heads[TASK]
    first = token_cache_key.hash_head(head, chosen, 32)
    assert token_cache_key.hash_head(head, chosen, 32) == first
    words.write_text("two")
    assert token_cache_key.hash_head(head, chosen, 32) != first


def test_a_head_that_depends_on_more_is_not_kept(place: Path, calls: list[int], opened: Open) -> None:
    run = opened()
    run.model.head(TASK).keeps_encoding = False
    run.encode()
    run.encode()
    assert len(calls) == 2
    assert not place.exists()


def test_few_rows_are_not_kept(place: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "MIN_ROWS", 31)
    opened().encode()
    assert not place.exists()


def test_equal_rows_have_one_hash_however_they_are_held(toys: ModuleType) -> None:
    rows = loading.from_python(toys.rows(20), task=TASK)
    mixed = np.random.default_rng(0).permutation(20)
    back = rows.select(mixed).select(np.argsort(mixed))
    assert token_cache_key.hash_rows(back, ["text", "label"]) == token_cache_key.hash_rows(rows, ["text", "label"])
    assert token_cache_key.hash_rows(rows.select(mixed), ["text"]) != token_cache_key.hash_rows(rows, ["text"])


@pytest.mark.parametrize("damage", [b"", b"nonsense"])
def test_a_damaged_file_is_tokenized_anew(damage: bytes, place: Path, calls: list[int], opened: Open) -> None:
    run = opened()
    before = drawn(run.encode(), run)
    (entry,) = place.iterdir()
    next(entry.glob("*.arrow")).write_bytes(damage)
    assert drawn(run.encode(), run) == before
    assert len(calls) == 2
    assert drawn(run.encode(), run) == before
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file"))
    monkeypatch.setattr(token_cache, "MIN_ROWS", 1)
    run = opened()
    assert drawn(run.encode(), run) == drawn(run.encode(kept=False), run)


@pytest.mark.parametrize("fails", [1, 2])
def test_a_full_disk_is_no_error(fails: int, place: Path, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "ENCODE_ROWS", 7)
    monkeypatch.setattr(arrow, "PART_BYTES", 2000)
    written: list[object] = []
    put = arrow._write

    def full(table: pa.Table, file: Any) -> None:
        written.append(file)
        if len(written) >= fails:
            raise OSError(28, "No space left on device")
        put(table, file)

    monkeypatch.setattr(arrow, "_write", full)
    run = opened()
    found = drawn(run.encode(), run)
    assert not list(place.iterdir())
    monkeypatch.setattr(arrow, "_write", put)
    assert drawn(run.encode(kept=False), run) == found


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_token_cache import Opened
from hft_core.data import arrow, examples, token_cache
token_cache.MIN_ROWS, examples.ENCODE_ROWS, arrow.PART_BYTES = 1, 7, 2000
run = Opened(Path({model!r}), {rows!r})
head, done = run.model.head("topic"), []
plain = head.encode
def encode(*arguments):
    done.append(1)
    if len(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)
head.encode = encode
run.encode()
"""


def test_a_killed_run_leaves_nothing_that_is_found(
    place: Path, calls: list[int], opened: Open, models: Any, toys: ModuleType
) -> None:
    code = KILLED.format(tests=str(Path(__file__).parent), model=str(models["bert"]), rows=toys.rows(30))
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, cache.PLACE: str(place.parent)}, check=False)
    assert done.returncode == -signal.SIGKILL
    left = list(place.iterdir())
    assert left
    assert all(path.name.startswith(".") for path in left)
    run = opened()
    assert drawn(run.encode(), run) == drawn(run.encode(kept=False), run)
    assert calls == [30, 30]


def test_tables_that_do_not_fit_in_memory_are_in_files_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "PART_BYTES", 1000)
    monkeypatch.setattr(arrow.tempfile, "tempdir", str(tmp_path))

    def tables() -> Iterator[pa.Table]:
        for i in range(20):
            yield pa.table({"a": list(range(100 * i, 100 * i + 100)), "b": [None if i < 5 else "x"] * 100})

    before = pa.total_allocated_bytes()
    found = token_cache.without_cache(tables)
    assert [value for table in found for value in table["a"].to_pylist()] == list(range(2000))
    assert [value for table in found for value in table["b"].to_pylist()] == [None] * 500 + ["x"] * 1500
    assert pa.total_allocated_bytes() - before < 1500
    assert not list(tmp_path.iterdir())
