from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from hft_core.runtime import cache
from hft_core.runtime.cache import Cache


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "hft"))
    return Cache("things", limit=1000)


def fill(made: Cache, key: str, content: bytes = b"x" * 300) -> None:
    with made.filling(key) as folder:
        assert folder is not None
        (folder / "a").write_bytes(content)
        made.publish(folder, key)


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


@pytest.mark.parametrize("damage", ["flipped", "shorter", "gone", "no manifest", "odd manifest", "other manifest"])
def test_a_damaged_entry_is_not_found_and_can_be_filled_again(made: Cache, damage: str) -> None:
    fill(made, "k", b"content")
    file, manifest = made.folder / "k" / "a", made.folder / "k" / cache.MANIFEST
    if damage == "flipped":
        file.write_bytes(b"c0ntent")
    elif damage == "shorter":
        file.write_bytes(b"cont")
    elif damage == "gone":
        file.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("{" if damage == "odd manifest" else '["a"]')
    assert made.find("k") is None
    fill(made, "k", b"content")
    assert made.find("k") is not None


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
    os.utime(old, (time.time() - 2 * cache.ABANDONED,) * 2)
    fill(made, "other")
    assert names(made) == {"k", "other", ".busy.12345678"}


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(cache.PLACE, str(tmp_path / "file"))
    blocked = Cache("things")
    assert blocked.find("k") is None
    with blocked.filling("k") as folder:
        assert folder is None


def test_the_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.PLACE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "hft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "hft"


def _fill_slowly(place: str, log: str) -> None:
    os.environ[cache.PLACE] = place
    made = Cache("things")
    with made.filling("k") as folder:
        if made.find("k") is None:
            assert folder is not None
            with Path(log).open("a") as file:
                file.write("filled\n")
            time.sleep(0.3)
            (folder / "a").write_bytes(b"content")
            made.publish(folder, "k")


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
