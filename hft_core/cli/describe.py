"""`hft describe`: one plugin, its options and an example."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hft_core.cli.invocation import prints_on_stderr
from hft_core.cli.list_plugins import describe_entry
from hft_core.cli.terminal import plain, print_json, print_table, say
from hft_core.errors import PluginError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from hft_core.head import Column
    from hft_core.plugins.catalogue import Catalogue, Entry

ABILITIES: dict[str, tuple[str, str]] = {
    "needs_labels": ("learns from labels", "learns from the texts alone, without labels"),
    "streams": ("can learn from a stream of rows (data.stream)", ""),
    "private_parts": ("keeps a part of the trunk for each task", "all tasks share the whole trunk"),
    "merges": ("can be folded into the trunk, so that another stage may follow", "only in a run's last stage"),
    "per_task_gradients": ("combines one gradient per task", "combines the losses"),
    "non_conflicting": ("the combined gradient conflicts with no task's", ""),
}
"""What a spec's capabilities mean, where they are true and where they are not."""
KINDS = {
    "text": "text",
    "label": "label",
    "number": "number",
    "messages": "conversation (role, content)",
    "tools": "functions that may be called (JSON schemas)",
}
"""What a head reads from a column, in words."""


def describe(
    ctx: typer.Context,
    seam: Annotated[str, typer.Argument(help="backbone, head, strategy, combiner, recipe, tracker or launcher.")],
    name: Annotated[str, typer.Argument(help="The plugin's name, or distribution:name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Show one plugin, its options and an example."""
    catalogue: Catalogue = ctx.obj.catalogue
    entry = catalogue.find(seam, name)
    if entry.spec is None:
        catalogue.get(seam, name)  # raises, with the state and the reason
    with prints_on_stderr():
        described = describe_plugin(catalogue, entry)
    if as_json:
        print_json(described)
        return
    for key in ("seam", "name", "summary", "provider", "version", "state", "reason", "source"):
        if described[key]:
            say(f"{key + ':':<10}{described[key]}")
    for warning in described["warnings"]:
        say(f"warning:  {warning}")
    for ability in _abilities(described["capabilities"]):
        say(f"- {ability}")
    _print_options(described["options"])
    _print_columns(described.get("columns") or [])
    say()
    say("example:")
    for line in described["example"].splitlines():
        print(f"  {plain(line)}")
    if described.get("example_row"):
        say(f"with rows such as: {json.dumps(described['example_row'], ensure_ascii=False)}")


def describe_plugin(catalogue: Catalogue, entry: Entry) -> dict[str, Any]:
    """The entry with its options (None when the plugin's state keeps them from being read) and its example as YAML.

    Raises `PluginError` when a plugin whose state is ok has options that cannot be loaded.
    """
    described = describe_entry(entry)
    described["options"] = None
    if not entry.reason:
        described["options"] = describe_options(catalogue.load_options(entry))
    described["example"] = _example(entry)
    if entry.seam == "head" and not entry.reason:
        described |= _example_data(catalogue, entry)
    return described


def _example_data(catalogue: Catalogue, entry: Entry) -> dict[str, Any]:
    """Return the columns that the head of the example reads, and a row; nothing where it cannot be built."""
    from hft_core.testing.check import Subject
    from hft_core.testing.toy_task import TASK, rows_of

    subject = Subject(entry, catalogue)
    try:
        columns = subject.build(task=TASK).columns()
        (row,) = rows_of(subject, 1, 0)
    except Exception:  # a plugin's own code; `hft check-plugin` tells what is wrong with it
        return {"columns": [], "example_row": None}
    return {"columns": [_column(column) for column in columns], "example_row": row}


def _column(column: Column) -> dict[str, Any]:
    kind = KINDS[column.kind]
    return {
        "name": column.name,
        "holds": f"list of {kind}s" if column.many else kind,
        "needed": "to train and evaluate" if column.target else "always",
    }


def _abilities(capabilities: dict[str, Any]) -> list[str]:
    """Return what the plugin can do, in words."""
    said = [ABILITIES[key][0 if value else 1] for key, value in capabilities.items() if key in ABILITIES]
    if capabilities.get("continues"):
        said.append(f"may follow {', '.join(capabilities['continues'])}, whose parts it takes over")
    return [text for text in said if text]


def describe_options(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each option; a required one has no default."""
    from hft_core.cli.option_words import option_type

    options = []
    for name, info in model.model_fields.items():
        option = {"name": info.alias or name, "type": option_type(info), "required": info.is_required()}
        if not info.is_required():
            option["default"] = info.get_default(call_default_factory=True, validated_data={})
        options.append({**option, "meaning": " ".join((info.description or "").split())})
    return options


def _print_options(options: list[dict[str, Any]] | None) -> None:
    say()
    if not options:
        say("options: none" if options is not None else "options: not known while the plugin cannot be used")
        return
    rows = [
        (o["name"], o["type"], "required" if o["required"] else _shown(o["default"]), o["meaning"]) for o in options
    ]
    print_table(("option", "type", "default", "meaning"), rows, wrap=("type", "meaning"))


def _print_columns(columns: list[dict[str, Any]]) -> None:
    if columns:
        say()
        print_table(("column", "holds", "needed"), [tuple(column.values()) for column in columns])


def _shown(value: Any) -> str:
    """A value as YAML would hold it on one line; a dash for none."""
    if value is None or value in ((), [], {}, ""):
        return "–"
    return value if isinstance(value, str) and value.strip() else json.dumps(value, ensure_ascii=False, default=str)


def _example(entry: Entry) -> str:
    import yaml

    assert entry.spec is not None, "entries without a spec are not described"
    try:
        options = json.loads(json.dumps(dict(entry.spec.example)))
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{entry.seam} '{entry.name}' of {entry.provider.label}: its example is not plain data: {error}"
        ) from error
    chosen: dict[str, Any] = {"type": entry.name, **options}
    part = {entry.seam: chosen}
    if entry.seam == "head":
        part = {"tasks": {"NAME": {"head": entry.name, "data": "FILE", **options}}}
    text: str = yaml.safe_dump(part, sort_keys=False, allow_unicode=True)
    return text
