from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hft_core.acceleration.activation_cache import room
from hft_core.errors import UsageError
from hft_core.runtime import cache, cache_entry
from hft_core.runtime.cache import Cache


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "hft"))
    monkeypatch.setenv(cache.SIZE, "1000")
    return Cache(cache.TOKENS)


def fill(made: Cache, key: str, content: bytes = b"x" * 300) -> None:
    with made.filling(key) as folder:
        assert folder is not None
        (folder / "a").write_bytes(content)
        made.publish(folder, key, rows=3)


def names(made: Cache) -> set[str]:
    return {path.name for path in made.folder.iterdir()}


def test_an_entry_is_found_once_it_was_published_and_nothing_else_is_left(made: Cache) -> None:
    assert made.find("k") is None
    fill(made, "k", b"content")
    place = made.find("k")
    assert place is not None
    assert (place / "a").read_bytes() == b"content"
    assert names(made) == {"k"}


def test_an_entry_that_was_not_finished_is_never_found(made: Cache) -> None:
    def fail() -> None:
        with made.filling("k") as folder:
            assert folder is not None
            (folder / "a").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert made.find("k") is None
    assert names(made) == set()


def _link(entry: Path) -> None:
    outside = entry.parent.parent / "elsewhere"
    (entry / "a").rename(outside)
    (entry / "a").symlink_to(outside)


def _pipe(entry: Path) -> None:
    (entry / "a").unlink()
    os.mkfifo(entry / "a")


def _file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("a file in the place of the entry")


def _linked_entry(entry: Path) -> None:
    entry.rename(entry.parent.parent / "elsewhere")
    entry.symlink_to(entry.parent.parent / "elsewhere")


def _manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def damage(entry: Path) -> None:
        path = entry / cache.MANIFEST
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped": lambda entry: (entry / "a").write_bytes(b"c0ntent"),
    "shorter": lambda entry: (entry / "a").write_bytes(b"cont"),
    "gone": lambda entry: (entry / "a").unlink(),
    "a file twice": lambda entry: shutil.copy(entry / "a", entry / "b"),
    "a folder in it": lambda entry: (entry / "b").mkdir(),
    "a link": _link,
    "a pipe": _pipe,
    "a file in its place": _file,
    "a link in its place": _linked_entry,
    "no manifest": lambda entry: (entry / cache.MANIFEST).unlink(),
    "half a manifest": lambda entry: (entry / cache.MANIFEST).write_text("{"),
    "a deep manifest": lambda entry: (entry / cache.MANIFEST).write_text("[" * 100_000),
    "empty": _manifest(lambda manifest: {}),
    "no files": lambda entry: [
        (entry / "a").unlink(),
        _manifest(lambda manifest: {**manifest, "files": {}})(entry),
    ],
    "a list": _manifest(lambda manifest: ["a"]),
    "other rows": _manifest(lambda manifest: {**manifest, "rows": 6}),
    "another version": _manifest(lambda manifest: {**manifest, "format": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_removed_and_filled_again(made: Cache, damage: str) -> None:
    fill(made, "k", b"content")
    DAMAGES[damage](made.folder / "k")
    assert made.find("k", rows=3) is None
    assert names(made) == set()
    fill(made, "k", b"content")
    assert made.find("k", rows=3) is not None


def test_the_limit_is_of_all_kinds_together(made: Cache) -> None:
    other = Cache(cache.ACTIVATIONS)
    fill(other, "old", b"x" * 600)
    os.utime(other.folder / "old" / cache.MANIFEST, (1, 1))
    fill(made, "new", b"x" * 600)
    assert other.find("old") is None
    assert made.find("new") is not None


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("0", 0), ("300", 300), ("7KB", 7000)]
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert cache.parse_size(text, "--limit") == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "nan", "inf", "10 gibs", "9" * 400, "20GB\x1b[2J"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not a size"):
        cache.parse_size(text, "--limit")
    monkeypatch.setenv(cache.SIZE, text)
    if text:
        with pytest.raises(UsageError, match=cache.SIZE):
            Cache(cache.TOKENS)


def test_what_was_used_longest_ago_goes_first_and_the_newest_stays(made: Cache) -> None:
    for i, key in enumerate(("one", "two", "three")):
        fill(made, key, b"x" * 200)
        os.utime(made.folder / key / cache.MANIFEST, (i, i))
    made.find("one")
    fill(made, "four", b"x" * 200)
    assert names(made) == {"one", "four", "three"}
    fill(made, "large", b"x" * 5000)
    assert names(made) == {"large"}


def test_what_a_killed_process_left_is_removed_after_a_day(made: Cache) -> None:
    fill(made, "k")
    old, new = made.folder / ".gone.12345678", made.folder / ".busy.12345678"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (time.time() - 2 * cache_entry.ABANDONED,) * 2)
    fill(made, "other")
    assert names(made) == {"k", "other", ".busy.12345678"}


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file"))
    blocked = Cache(cache.TOKENS)
    assert blocked.find("k") is None
    with blocked.filling("k") as folder:
        assert folder is None


@pytest.mark.parametrize("place", ["~nosuchuser/cache", "/" + "x" * 5000, "/proc/none/hft", "/dev/null/hft", "x" * 300])
def test_a_place_that_cannot_be_is_no_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.PLACE, place)
    nowhere = Cache(cache.TOKENS)
    assert nowhere.find("k") is None
    with nowhere.filling("k") as folder:
        assert folder is None
    assert 0 <= room(1000) <= 1000


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (cache.PLACE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without an entry in the system's list of users
    assert cache.folder() is None
    assert Cache(cache.TOKENS).find("k") is None
    assert room(1000) > 0


def test_the_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.PLACE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "hft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "hft"


def _fill_slowly(place: str, log: str) -> None:
    os.environ[cache.PLACE] = place
    made = Cache(cache.TOKENS)
    with made.filling("k") as folder:
        if made.find("k") is None:
            assert folder is not None
            with Path(log).open("a") as file:
                file.write("filled\n")
            time.sleep(0.3)
            (folder / "a").write_bytes(b"content")
            made.publish(folder, "k", rows=3)


def test_of_several_processes_one_fills_an_entry_and_the_others_wait_for_it(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    arguments = (str(tmp_path / "hft"), str(tmp_path / "log"))
    processes = [spawn.Process(target=_fill_slowly, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "filled\n"
