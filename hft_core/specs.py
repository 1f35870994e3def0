"""What a plugin says about itself; light (standard library only), so that listing plugins imports nothing heavy.

A spec names its implementation by import string (`"package.module:attribute"`). The form of the string is checked when
the spec is made; the module behind it is imported at first use.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

API_VERSION = 1
"""The hook API this core speaks. Hook arguments and spec fields are only ever added within a version."""

SUPPORTED_API = range(1, API_VERSION + 1)
"""The API versions a spec may name; another one is listed as `incompatible`."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""The form of every name that may become a file name: plugins, tasks, stages."""

_IMPORT_STRING = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One plugin of one seam.

    Raises `ValueError` when a field does not have its form.
    """

    name: str
    """What a recipe writes."""
    summary: str
    """One line for `hft list-plugins`."""
    factory: str
    """Import string of the callable that builds the plugin; its signature is the seam's (see `hft_core.hooks`)."""
    options: str
    """Import string of the pydantic model of the plugin's options."""
    requires: tuple[str, ...] = ()
    """Requirements (as pip writes them) beyond those of the distribution; one missing makes the state `needs …`."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """The smallest options that work; the conformance suite and the docs use them."""
    source: str = ""
    """The paper or library that defines the method."""
    api: int = API_VERSION
    """The hook API the plugin was written for."""

    seam: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"plugin name {self.name!r} is not of the form {NAME.pattern}")
        if not self.summary or "\n" in self.summary:
            raise ValueError(f"plugin {self.name!r}: summary must be one line of text")
        for label in ("factory", "options"):
            check_import_string(getattr(self, label), f"plugin {self.name!r}: {label}")


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A trunk: how text becomes `[batch, seq, hidden]`."""

    opens: str = ""
    """Import string of `(model: str) -> bool`: whether this backbone opens that folder, file or hub id. It lets a
    recipe leave out the type."""
    example_model: str = ""
    """Import string of `(folder: pathlib.Path) -> None` that writes a tiny model into `folder`, for the conformance
    suite: for backbones that open no folder of transformers. `PATH` in `example` stands for that folder."""

    seam: ClassVar[str] = "backbone"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opens:
            check_import_string(self.opens, f"plugin {self.name!r}: opens")


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """A task head: what is learned from the trunk's features."""

    needs_labels: bool = True
    """False for self-supervised heads, which make their own targets from the text."""
    streams: bool = False
    """Its training rows may be a stream (`data.stream`): it learns no facts from them, and each example is a unit."""
    example_rows: str = ""
    """Import string of `(count: int, seed: int) -> list[dict]`: rows that the head of `example` can learn, for the
    conformance suite. Rows whose cells depend on one another (a span and its context) are beyond what it makes up from
    the head's columns."""

    seam: ClassVar[str] = "head"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.example_rows:
            check_import_string(self.example_rows, f"plugin {self.name!r}: example_rows")


@dataclass(frozen=True, kw_only=True)
class StrategySpec(Spec):
    """A parameter-sharing strategy: which parameters train, and who shares them."""

    private_parts: bool = False
    """The strategy keeps a part of the trunk for each task."""
    merges: bool = True
    """What it adds can be folded into the trunk, so that another stage may follow. Where that depends on the options,
    their model has a property of this name."""
    continues: tuple[str, ...] = ()
    """Strategies of a preceding stage whose parts this one takes over as they are, without folding them."""

    seam: ClassVar[str] = "strategy"


@dataclass(frozen=True, kw_only=True)
class CombinerSpec(Spec):
    """A loss combiner: losses by task to one backward pass."""

    per_task_gradients: bool = False
    """The combiner works on one gradient a task instead of on the losses."""
    non_conflicting: bool = False
    """The combined gradient has no negative product with any task's gradient."""

    seam: ClassVar[str] = "combiner"


@dataclass(frozen=True, kw_only=True)
class RecipeSpec(Spec):
    """A ready-made recipe that a distribution ships (`hft demo` runs the one of that name)."""

    next: tuple[str, ...] = ()
    """Commands worth typing after it has run; `RUN` stands for the run's folder."""

    seam: ClassVar[str] = "recipe"


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(Spec):
    """A program that keeps and plots the numbers of runs."""

    seam: ClassVar[str] = "tracker"


@dataclass(frozen=True, kw_only=True)
class LauncherSpec(Spec):
    """A place where the runs of a comparison or a search are computed."""

    seam: ClassVar[str] = "launcher"


SEAMS: dict[str, type[Spec]] = {
    spec.seam: spec
    for spec in (BackboneSpec, HeadSpec, StrategySpec, CombinerSpec, RecipeSpec, TrackerSpec, LauncherSpec)
}


def check_import_string(target: str, label: str) -> None:
    """Raise `ValueError` unless `target` has the form `package.module:attribute`."""
    if not isinstance(target, str) or not _IMPORT_STRING.fullmatch(target):
        raise ValueError(
            f"{label} must be an import string like 'package.module:attribute' of an importable, module-level object "
            f"(nothing defined inside a function), not {target!r}"
        )


def load(target: str) -> Any:
    """Return the object that the import string `target` names.

    Raises whatever importing the module raises, and `AttributeError` when the module lacks the attribute.
    """
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def lazy_attributes(module: str, targets: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its public names when they are first used.

    `module`: the package's `__name__`; `targets`: import strings by public name.
    """

    def get(name: str) -> Any:
        if name not in targets:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        return load(targets[name])

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *targets})

    return get, names
