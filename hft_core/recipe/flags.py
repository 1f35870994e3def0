"""Build recipes from command-line flags: plain data with one stage called `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hft_core.errors import RecipeError, UsageError
from hft_core.recipe.names import in_form
from hft_core.recipe.yaml_source import parse_value

if TYPE_CHECKING:
    from collections.abc import Sequence

TASK_FORM = "expected NAME=HEAD:FILE, for instance topic=classification:news.csv"
PLUGIN_FORM = "expected NAME or NAME,OPTION=VALUE, for instance lora,r=16"

_CLOSING = {"[": "]", "{": "}"}


def recipe_from_flags(
    backbone: str,
    tasks: Sequence[str],
    *,
    strategy: str | None = None,
    combiner: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Build plain recipe data for `hft_core.recipe.recipe_file`.

    A task is `NAME=HEAD:FILE` (a wildcard, or several files separated by commas); a strategy or combiner is `NAME` or
    `NAME,OPTION=VALUE`. `settings` are further keys of the stage (`epochs`, `max_steps`, `learning_rate`, …); None
    leaves one out. Raises `UsageError` that shows the expected form.
    """
    if not backbone.strip():
        raise UsageError("--backbone: expected a local folder or file, or a hub id")
    if not tasks:
        raise UsageError(f"--task: at least one is needed; {TASK_FORM}")
    task_data: dict[str, Any] = {}
    for flag in tasks:
        name, task = task_from_flag(flag)
        if name in task_data:
            raise UsageError(f"--task {flag}: the task '{name}' is given twice")
        task_data[name] = task
    stage: dict[str, Any] = {"name": "train", "tasks": list(task_data)}
    if strategy is not None:
        stage["strategy"] = plugin_from_flag(strategy, "--strategy")
    if combiner is not None:
        stage["combiner"] = plugin_from_flag(combiner, "--combiner")
    stage.update({key: value for key, value in settings.items() if value is not None})
    return {"backbone": {"model": backbone}, "tasks": task_data, "stages": [stage]}


def task_from_flag(flag: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME=HEAD:FILE` into name and task; the file may contain `=` and `:`. Raises `UsageError`."""
    name, _, rest = flag.partition("=")
    head, _, files = rest.partition(":")
    name, head = name.strip(), head.strip()
    if not (name and head and files.strip()):
        raise UsageError(f"--task {flag}: {TASK_FORM}")
    try:
        name = in_form(name)
    except ValueError as error:
        raise UsageError(f"--task {flag}: '{name}' is not a task name ({error}); {TASK_FORM}") from None
    return name, {"head": head, "data": {"files": _files(flag, files)}}


def plugin_from_flag(text: str, flag: str) -> dict[str, Any]:
    """Parse `NAME,OPTION=VALUE` into a plugin choice; values are YAML. Raises `UsageError` that names `flag`."""
    name, *options = (part.strip() for part in _split(text))
    if not name or "=" in name:
        raise UsageError(f"{flag} {text}: {PLUGIN_FORM}")
    chosen: dict[str, Any] = {"type": name, "options": {}}
    for option in options:
        key, equals, value = (part.strip() for part in option.partition("="))
        if not (key and equals):
            raise UsageError(f"{flag} {text}: '{option}' is not an option; {PLUGIN_FORM}")
        if key in chosen["options"]:
            raise UsageError(f"{flag} {text}: the option '{key}' is given twice")
        try:
            chosen["options"][key] = parse_value(value, f"{flag} {text}")
        except RecipeError as error:
            raise UsageError(f"{error}; {PLUGIN_FORM}") from None
    return chosen


def _files(flag: str, text: str) -> list[str]:
    """Split the files of a task flag at commas outside brackets."""
    files = [part.strip() for part in _split(text)]
    if not all(files):
        raise UsageError(f"--task {flag}: a file between commas is empty; {TASK_FORM}")
    return files


def _split(text: str) -> list[str]:
    """Split `text` at commas outside brackets."""
    parts, open_brackets = [""], ""
    for character in text:
        if character == "," and not open_brackets:
            parts.append("")
            continue
        if character in _CLOSING:
            open_brackets += _CLOSING[character]
        elif open_brackets.endswith(character):
            open_brackets = open_brackets[:-1]
        parts[-1] += character
    return parts
