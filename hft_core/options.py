"""The base of every plugin's options; imports no torch, so that options are checked and described without it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

FOLDER_OF = "folder_of"
"""The key of the validation context with a function from an option's name to the folder its paths start from."""


class Options(BaseModel):
    """Options of a plugin: unknown names are errors, and nothing changes after they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneOptions(Options):
    """Base of every backbone's options."""

    model: str = Field(min_length=1, description="what to open: a local folder or file, or a hub id")


def _absolute(path: str, info: ValidationInfo) -> str:
    """Make the path absolute, so that the saved recipe works from any folder."""
    folder = info.context[FOLDER_OF](info.field_name) if info.context else Path.cwd()
    return str(Path(folder, os.path.expanduser(path)))  # noqa: PTH111 (pathlib's raises for an unknown user)


LocalPath = Annotated[
    str, Field(min_length=1, description="a file or folder; starts from the recipe's folder"), AfterValidator(_absolute)
]
"""The type of an option that is a file or folder of this machine. A relative one starts, like all paths of a recipe,
from the recipe file's folder, and from the working folder in flags, `--set` and Python."""
