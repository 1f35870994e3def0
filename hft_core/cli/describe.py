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
    from pydantic.fields import FieldInfo

    from hft_core.plugins.catalogue import Catalogue, Entry

LIMITS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "multiple of", "pattern": "matches"}
"""How the constraints of a pydantic field are shown."""


def describe(
    ctx: typer.Context,
    seam: Annotated[str, typer.Argument(help="backbone, head, strategy, combiner or recipe.")],
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
    for key, value in described["capabilities"].items():
        say(f"{key}: {_shown(value)}")
    _print_options(described["options"])
    say()
    say("example:")
    for line in described["example"].splitlines():
        print(f"  {plain(line)}")


def describe_plugin(catalogue: Catalogue, entry: Entry) -> dict[str, Any]:
    """The entry with its options (None when the plugin's state keeps them from being read) and its example as YAML.

    Raises `PluginError` when a plugin whose state is ok has options that cannot be loaded.
    """
    described = describe_entry(entry)
    described["options"] = None
    if not entry.reason:
        described["options"] = describe_options(catalogue.load_options(entry))
    described["example"] = _example(entry)
    return described


def describe_options(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, type, default and meaning of each option; a required one has no default."""
    options = []
    for name, info in model.model_fields.items():
        option = {"name": info.alias or name, "type": _type_text(info), "required": info.is_required()}
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


def _type_text(info: FieldInfo) -> str:
    annotation = info.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    limits = [
        f"{sign} {getattr(limit, field)}"
        for limit in info.metadata
        for field, sign in LIMITS.items()
        if getattr(limit, field, None) is not None
    ]
    return ", ".join([text, *limits])


def _shown(value: Any) -> str:
    """A value as YAML would hold it on one line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def _example(entry: Entry) -> str:
    import yaml

    assert entry.spec is not None, "entries without a spec are not described"
    try:
        options = json.loads(json.dumps(dict(entry.spec.example)))
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{entry.seam} '{entry.name}' of {entry.provider.label}: its example is not plain data: {error}"
        ) from error
    text: str = yaml.safe_dump({entry.seam: {"type": entry.name, **options}}, sort_keys=False, allow_unicode=True)
    return text
