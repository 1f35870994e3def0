"""The base of every plugin's options; imports no torch, so that options are checked and described without it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Options of a plugin: unknown names are errors, and nothing changes after they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneOptions(Options):
    """Base of every backbone's options."""

    model: str = Field(min_length=1, description="what to open: a local folder or file, or a hub id")
