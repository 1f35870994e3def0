"""List every file of a finished run with its size and hash, and verify a run's files; light."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hft_core.runtime.files import file_hash, read_json

FORMAT = 1
MAX_HEADER = 100_000_000
"""Bytes of the longest header that safetensors allows."""
Facts = Mapping[str, Any]
"""What a manifest says of a file: `size`, `sha256`, and `grows` where lines are appended later."""


def facts_of(path: Path) -> dict[str, Any]:
    """Return size and hash of a file. Raises `OSError`."""
    return {"size": path.stat().st_size, "sha256": file_hash(path)}


def facts_of_text(text: str) -> dict[str, Any]:
    """Return size and hash of a file that will hold `text`."""
    content = text.encode()
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, links and special files too, in order; none where there is no folder."""
    yield from sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def read(path: Path) -> dict[str, Facts]:
    """Return the facts of each file of a manifest, of a run or a checkpoint. Raises `OSError` or `ValueError`."""
    try:
        files = read_json(path)["files"]
        for facts in files.values():
            if not isinstance(facts["size"], int) or not isinstance(facts["sha256"], str):
                raise TypeError("size and hash of a file are not a number and a text")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lists no files ({type(error).__name__}: {error})") from error
    return dict(files)


def problem_of(path: Path, facts: Facts | None = None) -> str:
    """Return what is wrong with a file: it is not as `facts` say, or not what its suffix says; empty if nothing."""
    try:
        if path.is_symlink() or not path.is_file():
            return "is missing" if not path.exists() and not path.is_symlink() else "is not a regular file"
        return _difference(path, facts) or _content_problem(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"


def _difference(path: Path, facts: Facts | None) -> str:
    """Return how a file differs from what was written."""
    if facts is None:
        return ""
    size, wanted = path.stat().st_size, facts["size"]
    if facts.get("grows"):
        if size < wanted:
            return f"has {size} bytes of {wanted}"
        with path.open("rb") as file:
            same = hashlib.sha256(file.read(wanted)).hexdigest() == facts["sha256"]
        return "" if same else "is not as it was written"
    if size != wanted:
        return f"has {size} bytes, {wanted} were written"
    if file_hash(path) != facts["sha256"]:
        return f"is not as it was written ({_content_problem(path) or 'other content of the same size'})"
    return ""


def _content_problem(path: Path) -> str:
    """Return why a file is not valid JSON or safetensors, as its suffix says it is."""
    try:
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            _check_header(path)
    except ValueError as error:
        return f"is not valid {path.suffix[1:]}: {error}"
    return ""


def _check_header(path: Path) -> None:
    """Check that the header of a safetensors file describes its whole content. Raises `ValueError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, MAX_HEADER):
            raise ValueError("its header is cut short")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        end = max(ends, default=0)
        if end != size - 8 - length:
            raise ValueError(f"its tensors take {end} bytes, and {size - 8 - length} are there")
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"its header does not describe tensors ({type(error).__name__})") from error
