"""Hash everything that tokenized rows depend on: the rows' cells, the tokenizer, the head, the trunk, and their code.

A key that changes too often only costs time; one that changes too rarely would train on the wrong tokens. So in doubt
more is hashed than needed, and if something cannot be hashed there is no key.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from packaging.requirements import Requirement

from hft_core.plugins import provenance
from hft_core.runtime import signals
from hft_core.runtime.files import file_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hft_core.backbone import Backbone
    from hft_core.data.rows import Rows
    from hft_core.head import Head
    from hft_core.recipe.resolve import Chosen

FORMAT = 3
"""Version of the cached format."""
ROWS = 20_000
"""Rows hashed at a time."""
FILES = 10_000
"""A folder with more files than this is not hashed."""
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets")
"""Distributions whose version is hashed whatever a plugin requires."""
CODE = (".py", ".so", ".pyd")


def hash_rows(rows: Rows, names: Iterable[str]) -> str:
    """Hash the cells of the columns that `names` refer to, in the order of the rows."""
    columns = rows.columns_of(names)
    digest = hashlib.sha256()
    _add(digest, [(name, str(rows.dataset.features[name]), name in rows.mixed) for name in columns])
    view = rows.dataset.select_columns(columns).with_format("arrow")
    for start in range(0, len(rows), ROWS):
        signals.check()
        table: pa.Table = view[start : min(start + ROWS, len(rows))]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
            writer.write_table(table.replace_schema_metadata(None).combine_chunks())
        digest.update(memoryview(sink.getvalue()))
    return digest.hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the files that the tokenizer saves, and the settings that they omit. Raises the tokenizer's own errors if it
    cannot be saved."""
    digest = hashlib.sha256()
    sides = [getattr(tokenizer, name, None) for name in ("padding_side", "truncation_side", "model_max_length")]
    _add(digest, [type(tokenizer).__qualname__, *map(str, sides), str(getattr(tokenizer, "chat_template", ""))])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.name == "tokenizer.json":
                settings = json.loads(path.read_text(encoding="utf-8"))
                # Truncation and padding of the last call; each call sets them.
                _add(digest, [path.name, settings | {"truncation": None, "padding": None}])
            elif path.is_file():
                _add(digest, [path.name, file_hash(path)])
    return digest.hexdigest()


def hash_head(head: Head, chosen: Chosen, max_length: int) -> str | None:
    """Hash what `encode` of a head with the plugin and options `chosen` depends on. None if unknown (code without a
    file), or if the head says that it depends on more."""
    if not head.keeps_encoding:
        return None
    plugin, code = _hash_chosen(chosen), hash_code(type(head))
    if plugin is None or code is None:
        return None
    return _hash([plugin, code, head.facts, [repr(column) for column in head.columns()], head.group_column, max_length])


def hash_backbone(backbone: Backbone, chosen: Chosen) -> str | None:
    """Hash what a head may read from its backbone while it encodes. None as in `hash_head`."""
    plugin, code = _hash_chosen(chosen), hash_code(type(backbone))
    if plugin is None or code is None:
        return None
    limits = [backbone.max_length, backbone.max_target_length, backbone.hidden_size]
    kind = [backbone.causal, backbone.encoder_decoder, repr(getattr(backbone.trunk, "config", ""))]
    return _hash([plugin, code, limits, kind])


def hash_all(*parts: object) -> str:
    """Combine several hashes into one."""
    return _hash([FORMAT, parts])


def hash_code(kind: type) -> str | None:
    """Hash the source of the packages (or single files) that define a class and its bases. None if one has no file."""
    sources = []
    for base in kind.__mro__:
        top = base.__module__.partition(".")[0]
        if top in sys.stdlib_module_names or top in LIBRARIES:
            continue
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if file is None:
            return None
        sources.append(f"{base.__module__}.{base.__qualname__} {hash_source(Path(file))}")
    return _hash(sources)


def hash_source(file: Path) -> str:
    """Hash the source of the package that a module's `file` belongs to, or of the single file."""
    return _hash_package(_package_root(file))


def _package_root(file: Path) -> Path:
    """Return the folder of the outermost package of a module, or the module's own file."""
    root = file
    while (root.parent / "__init__.py").exists():
        root = root.parent
    return root


@cache
def _hash_package(root: Path) -> str:
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in CODE)
    return _hash([(str(path.relative_to(root)), file_hash(path)) for path in paths])


def _hash_chosen(chosen: Chosen) -> str | None:
    """Hash a plugin's origin, its options, the files they name, and the versions of its requirements."""
    options = chosen.options.model_dump(mode="json")
    files = [_hash_path(Path(text)) for text in _texts(options) if _exists(text)]
    if None in files:
        return None
    spec = chosen.entry.spec
    requirements = [*(spec.requires if spec else ()), *_requirements(chosen.entry.provider.distribution)]
    versions = sorted(
        {(name, _version(name)) for name in (*LIBRARIES, *(Requirement(text).name for text in requirements))}
    )
    return _hash([provenance.origin(chosen.entry), options, files, versions])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with an invalid character
        return False


def _hash_path(path: Path) -> str | None:
    """Hash a file's content, or the names, sizes and times of a folder's files. None for a huge folder."""
    if path.is_file():
        return file_hash(path)
    files = []
    for file in path.rglob("*"):
        status = file.stat()
        files.append((str(file.relative_to(path)), status.st_size, status.st_mtime_ns))
        if len(files) > FILES:
            return None
    return _hash(sorted(files))


def _requirements(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a file, or a module passed by the host
        return []


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    digest.update(json.dumps(value, sort_keys=True, ensure_ascii=True).encode())
