"""Find the modules beside a plugin file that it imports, so that a change of them is noticed as one of the file is."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from hft_core.file_guard import open_regular


def digest_with_imports(source: bytes, file: Path) -> str:
    """Return the SHA-256 of a file's `source`; together with the modules of its folder that it imports, if any.

    They are read off the import statements, those inside functions included, and followed from module to module.
    """
    found: dict[str, str] = {}
    _follow(source, file.parent, found)
    found.pop(file.stem, None)
    digest = hashlib.sha256(source)
    if found:
        digest.update(repr(sorted(found.items())).encode())
    return digest.hexdigest()


def _follow(source: bytes, folder: Path, found: dict[str, str]) -> None:
    """Add the digest of each module of `folder` that `source` imports, by name."""
    for name in _imported(source):
        if name in found:
            continue
        for path in _files_of(folder, name):
            try:
                with open_regular(path) as opened:
                    content = opened.read()
            except OSError:
                continue
            key = name if path.stem == name else path.relative_to(folder).as_posix()
            found[key] = hashlib.sha256(content).hexdigest()
            _follow(content, folder, found)


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the file of a module, or all Python files of a package."""
    if (folder / f"{name}.py").is_file():
        return [folder / f"{name}.py"]
    return sorted((folder / name).rglob("*.py")) if (folder / name / "__init__.py").is_file() else []


def _imported(source: bytes) -> Iterator[str]:
    """Yield the first part of each module name that is imported; nothing of a file that is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
