"""Read, hash and atomically write the small files of a run; light."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from hft_core.errors import RunError
from hft_core.file_guard import open_regular
from hft_core.sanitize import finite, json_text

JSON_BYTES = 1 << 28
"""A larger JSON file is not read."""


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes in hexadecimal, read block by block. Raises `OSError`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises `OSError` or `ValueError`, whatever the file holds."""
    with open_regular(path) as file:
        content = file.read(JSON_BYTES + 1)
    if len(content) > JSON_BYTES:
        raise ValueError(f"it is larger than {JSON_BYTES >> 20} MiB")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


def follow_umask(path: Path) -> None:
    """Let a file, or all files in a folder, be read by whom the umask says; safetensors lets only the owner read.

    The umask is found with a new file, since asking for it changes it for a moment, in all threads. Raises `OSError`.
    """
    folder = path if path.is_dir() else path.parent
    probe = folder / f".umask.{os.getpid()}"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        permitted = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file() and not file.is_symlink() and permitted & ~file.stat().st_mode:
            file.chmod(stat.S_IMODE(file.stat().st_mode) | permitted)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk. Raises `OSError`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # a file system without that
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush a folder with everything below it to the disk; nothing where there is none. Raises `OSError`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def json_document(value: Mapping[str, Any]) -> str:
    """Return `value` as the text of a JSON file, with null for numbers that are not finite."""
    return json_text(finite(value), indent=2, allow_nan=False) + "\n"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` atomically, with null for numbers that are not finite. Raises `RunError`."""
    write_text(path, json_document(value))


def write_text(path: Path, text: str) -> None:
    """Write `text` to the disk atomically: readers see the old file or the new one. Raises `RunError` (a full disk)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
