"""Write answers to a file that a later process can resume.

While it grows, the file is `OUTPUT.part` (JSON lines), and `OUTPUT.part.json` says what it holds: of which run, tasks
and input, and how many bytes are whole rows. Both are gone once `OUTPUT` is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hft_core.errors import RunError, UsageError
from hft_core.predict import answer_tables
from hft_core.runtime.files import read_json, sync, write_json
from hft_core.runtime.locks import LockedError, locked
from hft_core.sanitize import finite, json_text

COUNTS = ("read", "written", "rejected", "bytes", "rejected_bytes")


@dataclass
class Progress:
    """What has been done, in rows and bytes."""

    read: int = 0
    """Rows of the input."""
    written: int = 0
    rejected: int = 0
    bytes: int = 0
    rejected_bytes: int = 0


class AnswerFile:
    """The file of answers and, where one was asked for, that of rejected rows."""

    def __init__(self, path: Path, rejects: Path | None, of: Mapping[str, Any]) -> None:
        """Go on with what an earlier process wrote. `of`: what the answers are of, by name.

        Raises `UsageError` when it wrote answers of something else.
        """
        self.path, self.rejects = path, rejects
        self.part = path.with_name(path.name + ".part")
        self.state = path.with_name(path.name + ".part.json")
        self.of = dict(of)
        self.done = self._done()
        try:
            self._answers = _open(self.part, self.done.bytes)
            self._rejected = None if rejects is None else _open(rejects, self.done.rejected_bytes)
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from error

    def _done(self) -> Progress:
        if not self.state.exists() or not self.part.exists():
            return Progress()
        try:
            state = read_json(self.state)
            of, done = state["of"], Progress(**{name: int(state[name]) for name in COUNTS})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.state} cannot be read ({error}): delete it to start anew") from error
        other = [name for name in self.of if self.of[name] != of.get(name)]
        if other:
            raise UsageError(
                f"{self.part} holds {done.written} answers of another {' and '.join(other)}: delete it to start anew, "
                "or give another --output"
            )
        if self.part.stat().st_size < done.bytes:
            raise UsageError(f"{self.part} is shorter than {self.state.name} says: delete it to start anew")
        if done.rejected and (self.rejects is None or not self.rejects.exists()):
            raise UsageError(f"{self.part}: rows were rejected before, expected --rejects with the same file again")
        return done

    def add(self, lines: Iterable[Mapping[str, Any]], rejected: Iterable[Mapping[str, Any]], read: int) -> None:
        """Write the answers and rejected rows of the next `read` rows. Raises `RunError` (a full disk)."""
        try:
            answers = _written(self._answers, lines)
            bad = (0, 0) if self._rejected is None else _written(self._rejected, rejected)
        except OSError as error:
            raise RunError(f"{self.part} cannot be written: {error.strerror}") from error
        done = self.done
        self.done = Progress(
            done.read + read,
            done.written + answers[0],
            done.rejected + bad[0],
            done.bytes + answers[1],
            done.rejected_bytes + bad[1],
        )
        write_json(self.state, {"of": self.of, **vars(self.done)})

    def finish(self) -> None:
        """Give the file its name, in the format of its suffix. Raises `RunError`."""
        self.close()
        try:
            answer_tables.convert(self.part, self.path)
            self.part.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
            sync(self.path.parent)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the files; what is written stays for a later process."""
        for file in (self._answers, self._rejected):
            if file is not None:
                file.close()


@contextmanager
def opened(path: Path, rejects: Path | None, of: Mapping[str, Any]) -> Iterator[AnswerFile]:
    """Open the file of answers for this process alone. Raises `UsageError`."""
    lock = path.with_name(path.name + ".part.lock")
    try:
        with locked(lock):
            answers = AnswerFile(path, rejects, of)
            try:
                yield answers
            finally:
                answers.close()
    except LockedError:
        raise UsageError(f"{path}: another process writes it") from None


def _open(path: Path, size: int) -> BinaryIO:
    """Open a file to append to its first `size` bytes, which are all that is kept. Raises `OSError`."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    file = os.fdopen(handle, "r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _written(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Write the lines to the disk; return how many they are, and their bytes."""
    texts = [f"{json_text(finite(line), default=str)}\n".encode() for line in lines]
    file.write(b"".join(texts))
    file.flush()
    os.fsync(file.fileno())
    return len(texts), sum(map(len, texts))
