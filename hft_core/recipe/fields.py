"""Define the base model of all recipe parts, the choice of a plugin, and field types."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from hft_core.recipe.names import in_form
from hft_core.sanitize import holds_password

Name = Annotated[str, AfterValidator(in_form)]
"""Of a task or stage: words in any script."""
Names = Annotated[tuple[str, ...], Field(strict=False)]  # accepts lists


class KeyPathError(ValueError):
    """An invalid key below the model that reports it; `path` is relative to that model."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path


def refuse_passwords(value: Any, path: tuple[str | int, ...] = ()) -> None:
    """Raise `KeyPathError` for a URL with a password in plain data, since recipes are saved and shared."""
    if isinstance(value, str) and holds_password(value):
        raise KeyPathError(path, "a URL with a password or token in it; recipes are kept and passed on, so take it out")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        refuse_passwords(part, (*path, key))


class Model(BaseModel):
    """Base of all recipe parts: strict, immutable, without unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return cls.expanded(value)

    @classmethod
    def expanded(cls, value: Any) -> Any:
        """Write out the model's short forms; return anything else unchanged.

        Raises `ValueError` for a contradictory short form.
        """
        return value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__  # whatever file it was read from

    def __hash__(self) -> int:
        return hash((type(self), tuple(_hashable(value) for value in self.__dict__.values())))


class PluginChoice(Model):
    """A plugin by name, with its options: `lora` or `{type: lora, r: 16}`."""

    type: str
    """The plugin's name, or `distribution:name` if several distributions have it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The plugin's options; they may also be written beside `type`."""

    @classmethod
    def expanded(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"type": value, "options": {}}
        if isinstance(value, dict) and not (set(value) <= {"type", "options"}):
            named = {"type": value["type"]} if "type" in value else {}
            return {**named, "options": {k: v for k, v in value.items() if k != "type"}}
        return value

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: _plain_data(value, (key,)) for key, value in options.items()}

    @model_serializer
    def _to_short_form(self) -> dict[str, Any]:
        if {"type", "options"} & self.options.keys():
            return {"type": self.type, "options": self.options}
        return {"type": self.type, **self.options}


def _plain_data(value: Any, path: tuple[str | int, ...]) -> Any:
    """Convert `value` to what YAML can represent. Raises `KeyPathError` for other types."""
    if isinstance(value, Mapping):
        return {str(k): _plain_data(v, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_data(v, (*path, i)) for i, v in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    raise KeyPathError(
        path, f"expected text, a number, true, false, null, a list or a mapping, not {type(value).__name__}"
    )


def _hashable(value: Any) -> Hashable:
    if isinstance(value, dict):
        return frozenset((k, _hashable(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(v) for v in value)
    return value  # type: ignore[no-any-return]
