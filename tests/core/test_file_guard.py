from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hft_core.file_guard import folder_problem, open_regular, outside_link, special_file


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a device ": lambda path: path.symlink_to("/dev/full"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    SPECIAL[kind](path)
    assert f"{path} is {kind.strip()}, expected a regular file" == special_file(path)
    with pytest.raises(OSError, match=r"it is a|No such device"):
        open_regular(path)
    assert folder_problem(tmp_path).startswith(str(path))
    assert folder_problem(path) == special_file(path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a folder, expected a regular file"):
        open_regular(tmp_path)


def test_a_link_that_the_user_names_is_opened(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("text")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    with open_regular(tmp_path / "here") as file:
        assert file.read() == b"text"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file, beside a secret."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "file").write_text("file")
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "target", ["../secret", "/etc/passwd", "/proc/self/environ", "..", "../missing", "inner/../../secret"]
)
@pytest.mark.parametrize("name", ["link", "inner/link", ".hidden"])
def test_a_link_out_of_a_folder_is_named(name: str, target: str, folder: Path) -> None:
    outside = target if target.startswith("/") else os.path.join(*[".."] * name.count("/"), target)
    (folder / name).symlink_to(outside)
    problem = folder_problem(folder)
    if name == ".hidden" and target == "..":
        assert problem == ""  # nothing reads below a hidden folder
    else:
        assert problem.startswith(f"{folder / name} is a link out of the folder, to ")


def test_a_chain_of_links_is_followed_to_its_end(folder: Path) -> None:
    (folder / "second").symlink_to("../secret")
    (folder / "first").symlink_to("second")
    assert "first is a link out of the folder" in folder_problem(folder)


def test_links_inside_a_folder_are_fine(folder: Path) -> None:
    (folder / "link").symlink_to("file")
    (folder / "inner" / "link").symlink_to("../file")
    (folder / "loop").symlink_to("loop")
    (folder / "whole").symlink_to(".")
    assert folder_problem(folder) == ""
    (folder.parent / "named").symlink_to(folder)
    assert folder_problem(folder.parent / "named") == ""


def _in_hub_cache(place: Path) -> Path:
    """A model as the hub's cache has it."""
    revision = place / "models--a--b" / "snapshots" / "0123"
    (revision / "sub").mkdir(parents=True)
    (place / "models--a--b" / "blobs").mkdir()
    (place / "models--a--b" / "blobs" / "abc").write_text("{}")
    (revision / "config.json").symlink_to("../../blobs/abc")
    (revision / "sub" / "config.json").symlink_to("../../../blobs/abc")
    return revision


def test_the_links_of_the_hubs_cache_are_fine(tmp_path: Path) -> None:
    revision = _in_hub_cache(tmp_path)
    assert folder_problem(revision) == ""
    assert folder_problem(revision / "sub") == ""
    (tmp_path / "elsewhere").symlink_to(tmp_path / "models--a--b")
    assert folder_problem(tmp_path / "elsewhere" / "snapshots" / "0123") == ""


def test_a_folder_that_only_looks_like_the_hubs_cache_is_none(folder: Path, tmp_path: Path) -> None:
    revision = _in_hub_cache(folder)
    (revision / "link").symlink_to("../../../../secret")
    assert "link out of the folder" in folder_problem(revision)
    (revision / "link").unlink()
    blobs = revision.parent.parent / "blobs"
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")  # all that is linked to is elsewhere now
    assert "link out of the folder" in folder_problem(revision)


def test_what_is_not_there_is_left_to_who_opens_it(tmp_path: Path) -> None:
    assert folder_problem(tmp_path / "missing") == folder_problem("org/model") == folder_problem("x\0y") == ""
    assert outside_link(tmp_path / "missing", tmp_path) == ""
