"""Keys from a file, and headers that have one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hft_core.errors import UsageError
from hft_core.serve.api_keys import read_keys

KEY, OTHER = "k" * 20, "another-key-of-some-length"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# of the shop\n{KEY}\n\n{OTHER}\n")
    return path


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (f"Bearer {KEY}", True),
        (f"bearer {OTHER}", True),
        (f"Basic {KEY}", False),
        (KEY, False),
        ("Bearer ", False),
        ("", False),
        ("Bearer # of the shop", False),
        (f"Bearer {KEY[:-1]}", False),
        ("Bearer k\u00fcchen", False),
    ],
)
def test_a_request_needs_one_of_the_keys(header: str, accepted: bool, file: Path) -> None:
    assert read_keys(file).accepts(header) is accepted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("short\n", "line 1: a key has at least 16"),
        ("# none\n", "there is no key in it"),
        ("k\u00fc" * 20, "cannot be read"),
    ],
)
def test_a_file_without_usable_keys_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_keys(tmp_path / "keys")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "none")
