"""Apply overrides from the command line: `--set stages.0.learning_rate=3e-4`, also by stage name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hft_core.errors import RecipeError, did_you_mean
from hft_core.recipe.did_you_mean import suggest_key
from hft_core.recipe.error_messages import model_at
from hft_core.recipe.fields import PluginChoice
from hft_core.recipe.names import normalized
from hft_core.recipe.schema import DATA_FILES, Data, Recipe, Task
from hft_core.recipe.stage import Stage
from hft_core.recipe.yaml_source import KeyPath, Source, absolute, existing, parse_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

FORM = "expected KEY.PATH=VALUE, for instance stages.0.learning_rate=3e-4"


def override(source: Source, assignments: Iterable[str]) -> Source:
    """Set some keys of `source`, in order. Raises `RecipeError` that names the assignment.

    Values are YAML; paths in them start from the working folder. Missing keys that the recipe knows are added.
    """
    for assignment in assignments:
        path_text, equals, value_text = assignment.partition("=")
        keys = normalized(path_text.strip()).split(".")
        if not equals or not all(keys):
            raise RecipeError(f"--set {' '.join(assignment.split())}: {FORM}")
        label = " ".join(f"--set {path_text.strip()}={value_text}".split())
        source = set_value(source, keys, parse_value(value_text, label), label)
    return source


def set_value(source: Source, keys: Sequence[str], value: Any, label: str) -> Source:
    """Set the key at the path `keys`; errors about it name `label`, the flag. Raises `RecipeError`."""
    data = write_out(Recipe, copy.deepcopy(source.data))
    path = _assign(data, keys, value, label)
    return Source(data, source.name, source.folder, _override_places(source, path, label))


def write_out(model: type[BaseModel], value: Any) -> Any:
    """Write out every short form, so that each key path is unique. Leaves invalid data for the models to report."""
    try:
        value = model.expanded(value)  # type: ignore[attr-defined]
    except ValueError:
        return value
    if not isinstance(value, dict):
        return value
    return {key: _write_out_field(model, key, inner) for key, inner in value.items()}


def _write_out_field(model: type[BaseModel], key: str, value: Any) -> Any:
    if single := model_at(model, (key,)):
        return value if value is None else write_out(single, value)
    entry = model_at(model, (key, 0))
    if entry is None:
        return value
    if isinstance(value, dict):
        return {name: write_out(entry, inner) for name, inner in value.items()}
    return [write_out(entry, inner) for inner in value] if isinstance(value, list | tuple) else value


def _assign(data: dict[str, Any], keys: Sequence[str], value: Any, label: str) -> KeyPath:
    """Set one key of data without short forms. Returns its path as the models spell it."""
    node: Any = data
    path: KeyPath = ()
    while True:
        step = _step(node, path, keys, label)
        keys = keys[1:]
        for key in step[:-1]:
            path = (*path, key)
            node = _below(node, path, label)
            if not isinstance(node, dict):
                raise RecipeError(f"{label}: '{_dotted(path)}' has no keys")
        path = (*path, step[-1])
        if not keys:
            node[step[-1]] = _resolve_paths(path, value, Path.cwd())
            return path
        node = _below(node, path, label)


def _step(node: Any, path: KeyPath, keys: Sequence[str], label: str) -> KeyPath:
    """Resolve the first of `keys` below `node`, as the models spell it: one key, or several for a short form."""
    key = keys[0]
    if isinstance(node, list):
        return (_index(node, path, key, label),)
    model = model_at(Recipe, path)
    if path == ("tasks",) and len(keys) > 1 and key not in node:
        raise RecipeError(f"{label}: no task is called '{key}'.{did_you_mean(key, node)}")
    if model is None or key in model.model_fields:
        return (key,)
    if issubclass(model, PluginChoice):
        return ("options", key)
    if model is Task and "head" in node:
        return ("head", "options", key)
    if model is Stage and key == "epochs":
        return ("num_train_epochs",)
    place = f"'{_dotted(path)}'" if path else "a recipe"
    raise RecipeError(f"{label}: {place} has no key '{key}'.{suggest_key(key, model.model_fields)}")


def _index(node: list[Any], path: KeyPath, key: str, label: str) -> int:
    """Return the index of a list entry, given by number (from 0) or stage name."""
    names: list[str] = []
    if path == ("stages",):
        names = [(isinstance(stage, dict) and stage.get("name")) or f"stage-{i}" for i, stage in enumerate(node, 1)]
        if key in names:
            return names.index(key)
    if key.isdecimal() and int(key) < len(node):
        return int(key)
    if key.isdecimal() or not names:
        raise RecipeError(f"{label}: '{_dotted(path)}' has no entry '{key}' (of {len(node)}, counted from 0)")
    raise RecipeError(f"{label}: no stage is called '{key}'.{did_you_mean(key, names)}")


def _below(node: Any, path: KeyPath, label: str) -> Any:
    """Return the mapping or list under the last key of `path` in `node`; add it if it is missing and allowed."""
    key = path[-1]
    inner = node.get(key) if isinstance(node, dict) else node[key]
    if isinstance(inner, dict | list):
        return inner
    if inner is None and (model_at(Recipe, path) or "options" in path or key == "weights"):
        node[key] = {}
        return node[key]
    raise RecipeError(f"{label}: '{_dotted(path)}' has no keys")


def _override_places(source: Source, path: KeyPath, label: str) -> dict[KeyPath, str]:
    """Return the places of `source`, with that of the key at `path` replaced by `label`."""
    written, missing = source.written(path)
    added = [key for key in missing if key != "options"]
    target = (*written, *added)
    places = {p: place for p, place in source.places.items() if p[: len(target)] != target}
    new = [(*written, *added[:length]) for length in range(1, len(added) + 1)]
    return {**places, **dict.fromkeys(new or [written], label)}


def _resolve_paths(path: KeyPath, value: Any, folder: Path) -> Any:
    """Make file paths in the value of the key at `path` absolute, from `folder`."""
    if path == ("backbone", "options", "model") and isinstance(value, str):
        return existing(value, folder)
    if path[0] != "tasks" or path[2:3] != ("data",):
        return value
    if len(path) == 3:
        value = write_out(Data, value)
        files = value.items() if isinstance(value, dict) else ()
        return {key: _resolve_paths((*path, key), inner, folder) for key, inner in files} or value
    if path[3] not in (*DATA_FILES, "database"):
        return value
    if isinstance(value, list):
        return [absolute(inner, folder) if isinstance(inner, str) else inner for inner in value]
    return absolute(value, folder) if isinstance(value, str) else value


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))
