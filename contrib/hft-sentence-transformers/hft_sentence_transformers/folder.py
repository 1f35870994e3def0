"""A folder of sentence-transformers: what is in it, read and written without that library; imports no torch."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hft_core.errors import ModelError

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
TRANSFORMER_SETTINGS = "sentence_*_config.json"
"""Beside the transformer; its name holds that of the family in old folders (`sentence_roberta_config.json`)."""
NOT_NEEDED = ["*.onnx", "*.bin.index.json", "openvino*", "onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot"]
"""Files on the hub that hold the weights again, for other programs."""

EXPECTED = "expected a Transformer, a Pooling, and then nothing but Dense and Normalize"


@dataclass(frozen=True)
class Step:
    """A module behind the transformer."""

    kind: str
    """`Pooling`, `Dense` or `Normalize`."""
    place: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class SentenceFolder:
    """The modules of a folder, in their order."""

    root: Path
    transformer: Path
    """The folder that transformers opens: `root`, or one in it."""
    settings: dict[str, Any]
    """Of the transformer: `max_seq_length`, `do_lower_case`."""
    steps: tuple[Step, ...]
    """The first is the pooling."""
    entries: tuple[dict[str, Any], ...]
    """As `modules.json` has them, the transformer's included."""

    def write_beside(self, folder: Path) -> None:
        """Make a folder of sentence-transformers of `folder`, which holds a transformer and its tokenizer: all that is
        here but those."""
        first, *others = self.entries
        modules = json.dumps([{**first, "path": ""}, *others], indent=2)
        (folder / MODULES_FILE).write_text(modules + "\n", encoding="utf-8")
        for path in (*self.transformer.glob(TRANSFORMER_SETTINGS), self.root / SETTINGS_FILE):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        for step, entry in zip(self.steps, others, strict=True):
            target = folder / entry["path"]
            target.mkdir(parents=True, exist_ok=True)
            for path in step.place.glob("*"):
                if path.is_file():
                    shutil.copyfile(path, target / path.name)


def find(model: str, revision: str | None) -> Path:
    """The folder that `model` names: itself, or what the hub (or its cache) has under that name.

    Raises `ModelError` where there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=NOT_NEEDED))
    except Exception as error:  # the hub's client has errors of many libraries
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"model '{model}' is no folder, and was not found on the hub: {reason}") from error


def read(root: Path) -> SentenceFolder:
    """The folder `root`. Raises `ModelError` for one that is not of sentence-transformers, is damaged, or has modules
    that are not known here."""
    entries = _json(
        root / MODULES_FILE,
        list,
        f"{root} is no folder of sentence-transformers: it has no {MODULES_FILE} (a plain encoder: hf-encoder)",
    )
    steps = []
    for number, entry in enumerate(entries, start=1):
        kind, place = _kind(entry), _inside(root, entry)
        if kind == "Transformer" and number == 1:
            transformer = place
        elif (kind == "Pooling" and number == 2) or (kind in ("Dense", "Normalize") and number > 2 and place != root):
            steps.append(Step(kind, place, _config(place)))
        else:
            raise ModelError(f"{root / MODULES_FILE}: module {number} is '{kind or entry}'; {EXPECTED}")
    if not steps:
        raise ModelError(f"{root / MODULES_FILE}: found {len(entries)} modules; {EXPECTED}")
    files = sorted(transformer.glob(TRANSFORMER_SETTINGS))
    settings = _json(files[0], dict) if files else {}
    output = settings.get("module_output_name", "token_embeddings")
    if output != "token_embeddings":
        raise ModelError(f"{files[0]}: the transformer gives '{output}', expected 'token_embeddings'")
    return SentenceFolder(root, transformer, settings, tuple(steps), tuple(entries))


def _kind(entry: Any) -> str:
    """The class of a module; empty where it is not one of the library itself."""
    name = entry.get("type", "") if isinstance(entry, dict) else ""
    known = isinstance(name, str) and name.startswith("sentence_transformers.")
    return name.rpartition(".")[2] if known else ""


def _inside(root: Path, entry: Any) -> Path:
    """The module's own folder."""
    path = entry.get("path") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not (root / path).resolve().is_relative_to(root.resolve()):
        raise ModelError(f"{root / MODULES_FILE}: found the path {path!r}, expected that of a folder inside")
    return root / path


def _config(place: Path) -> dict[str, Any]:
    """A module's settings; old folders have none for Normalize."""
    path = place / "config.json"
    config: dict[str, Any] = _json(path, dict) if path.is_file() else {}
    name = config.get("module_input_name", "sentence_embedding")
    if name != "sentence_embedding" or config.get("module_output_name") not in (None, name):
        raise ModelError(f"{path}: the module reads or writes '{name}', expected 'sentence_embedding'")
    return config


def _json(path: Path, kind: type, missing: str = "") -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(missing or f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise ModelError(f"{path}: found a {type(value).__name__}, expected a {kind.__name__}")
    return value
