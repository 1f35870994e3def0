"""One bad input: what is wrong, how it is made, the command that meets it, and what is said."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

Change = Callable[[Path], None]
"""Makes the bad input in a folder that holds good ones (see `bad_inputs.surroundings`)."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the table."""

    what: str
    """What is wrong."""
    given: Change
    command: str
    """After `hft`; paths are relative to the folder."""
    says: str
    """The whole message after `error: `, where `…` stands for any text. Paths in the folder are written as relative."""
    code: int = 2
    needs: tuple[str, ...] = ()
    """What the folder holds beside the usual: `done` and `stopped` (runs), `index`, `decoder` (a model)."""
    packages: tuple[str, ...] = ()
    """Modules of extras that the command needs to get so far."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment."""
    largest_file: int = 0
    """Bytes after which the system refuses to write more to a file, as a full disk does; 0 for no limit."""
    process: bool = False
    """Met in a process of its own too."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the message has to match in full."""
        return re.compile(".*".join(map(re.escape, self.says.split("…"))), re.DOTALL)


def nothing(folder: Path) -> None:
    """What is wrong is the command or the environment."""


def write(name: str, content: str | bytes) -> Change:
    """Write a file (over the good one)."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else dedent(content).encode())

    return make


def replace(name: str, old: str, new: str) -> Change:
    """Put `new` in the place of `old`, which the file holds once."""

    def make(folder: Path) -> None:
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{name} holds {old!r} {text.count(old)} times"
        (folder / name).write_text(text.replace(old, new))

    return make


def line(name: str, number: int, new: str | bytes) -> Change:
    """Put `new` in the place of a line (from 1)."""

    def make(folder: Path) -> None:
        lines = (folder / name).read_bytes().split(b"\n")
        lines[number - 1] = new if isinstance(new, bytes) else new.encode()
        (folder / name).write_bytes(b"\n".join(lines))

    return make


def shorten(pattern: str, share: float = 0.5) -> Change:
    """Cut the end off the one file that matches."""

    def make(folder: Path) -> None:
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return make


def remove(*names: str) -> Change:
    """Remove files and folders."""

    def make(folder: Path) -> None:
        for name in names:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return make


def every(*changes: Change) -> Change:
    """One change after another."""

    def make(folder: Path) -> None:
        for change in changes:
            change(folder)

    return make
