"""What tokenised rows depend on, as one hash: the rows' cells, the tokenizer, the head, the trunk, and all their code.

A key that changes too often costs one more tokenising; one that changes too seldom would train on the wrong tokens. So
in doubt more is hashed than is needed, and where something cannot be hashed there is no key.
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

FORMAT = 1
"""Of what is kept under the keys."""
ROWS = 20_000
"""Rows hashed at a time."""
FILES = 10_000
"""A folder with more files than this is not looked through."""
RUNS = ("torch", "transformers", "tokenizers", "datasets")
"""Distributions whose version counts whatever a plugin asks for."""
CODE = (".py", ".so", ".pyd")


def of_rows(rows: Rows, names: Iterable[str]) -> str:
    """A hash of the cells of the columns that `names` lead into, in the order of the rows."""
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


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the files that the tokenizer saves, and of the settings that these leave out. Raises whatever one that
    cannot be saved does."""
    digest = hashlib.sha256()
    sides = [getattr(tokenizer, name, None) for name in ("padding_side", "truncation_side", "model_max_length")]
    _add(digest, [type(tokenizer).__qualname__, *map(str, sides), str(getattr(tokenizer, "chat_template", ""))])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.name == "tokenizer.json":
                settings = json.loads(path.read_text(encoding="utf-8"))
                # How the last call cut and padded its texts; each call says so anew.
                _add(digest, [path.name, settings | {"truncation": None, "padding": None}])
            elif path.is_file():
                _add(digest, [path.name, file_hash(path)])
    return digest.hexdigest()


def of_head(head: Head, chosen: Chosen, max_length: int) -> str | None:
    """A hash of what the head of the plugin and options `chosen` encodes by; None where that is not known (code without
    a file), or where the head says that it depends on more."""
    if not head.keeps_encoding:
        return None
    made, code = _of_chosen(chosen), of_code(type(head))
    if made is None or code is None:
        return None
    return _hash([made, code, head.facts, [repr(column) for column in head.columns()], head.group_column, max_length])


def of_backbone(backbone: Backbone, chosen: Chosen) -> str | None:
    """A hash of what a head may ask its backbone for while it encodes; None as in `of_head`."""
    made, code = _of_chosen(chosen), of_code(type(backbone))
    if made is None or code is None:
        return None
    limits = [backbone.max_length, backbone.max_target_length, backbone.hidden_size]
    kind = [backbone.causal, backbone.encoder_decoder, repr(getattr(backbone.trunk, "config", ""))]
    return _hash([made, code, limits, kind])


def of_all(*parts: object) -> str:
    """One hash of several."""
    return _hash([FORMAT, parts])


def of_code(kind: type) -> str | None:
    """A hash of the source of the packages (or single files) that a class and what it inherits from are defined in;
    None where one of them has no file."""
    found = []
    for one in kind.__mro__:
        top = one.__module__.partition(".")[0]
        if top in sys.stdlib_module_names or top in RUNS:
            continue
        file = getattr(sys.modules.get(one.__module__), "__file__", None)
        if file is None:
            return None
        found.append(f"{one.__module__}.{one.__qualname__} {_of_package(_root(Path(file)))}")
    return _hash(found)


def _root(file: Path) -> Path:
    """The folder of the outermost package that a module is in, or the module's own file."""
    root = file
    while (root.parent / "__init__.py").exists():
        root = root.parent
    return root


@cache
def _of_package(root: Path) -> str:
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix in CODE)
    return _hash([(str(path.relative_to(root)), file_hash(path)) for path in paths])


def _of_chosen(chosen: Chosen) -> str | None:
    """A hash of a plugin with its options: where it comes from, what that asks for, and the files that options name."""
    options = chosen.options.model_dump(mode="json")
    named = [_of_path(Path(text)) for text in _texts(options) if _exists(text)]
    if None in named:
        return None
    spec = chosen.entry.spec
    wanted = [*(spec.requires if spec else ()), *_requirements(chosen.entry.provider.distribution)]
    versions = sorted({(name, _version(name)) for name in (*RUNS, *(Requirement(text).name for text in wanted))})
    return _hash([provenance.origin(chosen.entry), options, named, versions])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a character that none may have
        return False


def _of_path(path: Path) -> str | None:
    """A hash of a file's content, or of the names, sizes and times of all files of a folder; None for a huge one."""
    if path.is_file():
        return file_hash(path)
    found = []
    for one in path.rglob("*"):
        status = one.stat()
        found.append((str(one.relative_to(path)), status.st_size, status.st_mtime_ns))
        if len(found) > FILES:
            return None
    return _hash(sorted(found))


def _requirements(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a file, or a module that a host passed
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
