"""Check which of a plugin's requirements the environment does not meet."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement


class InvalidRequirement(ValueError):
    """A requirement is not in pip's syntax."""


@dataclass(frozen=True)
class Need:
    """One unmet requirement."""

    name: str
    """The distribution that is missing or has the wrong version."""
    requirement: str
    """The argument for `pip install`."""
    problem: str


def missing(requires: Iterable[str]) -> list[Need]:
    """Return the unmet requirements, without those whose marker does not apply. Raises `InvalidRequirement`."""
    return [need for text in requires for need in _unmet(text)]


def _unmet(text: str) -> Iterator[Need]:
    from packaging.requirements import InvalidRequirement as Malformed
    from packaging.requirements import Requirement

    try:
        requirement = Requirement(text)
    except (Malformed, TypeError) as error:
        raise InvalidRequirement(f"{text!r} is not a requirement as pip writes it") from error
    if requirement.marker is not None and not requirement.marker.evaluate():
        return
    problem = _problem(requirement)
    if problem:
        yield Need(requirement.name, text, problem)
        return
    for part in _extra_requirements(requirement):
        problem = _problem(part)
        if problem:
            yield Need(part.name, text, problem)


def _problem(requirement: Requirement) -> str:
    """Return what is wrong with the installed version, or an empty string."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is installed, {requirement.name}{requirement.specifier} is needed"


def _extra_requirements(requirement: Requirement) -> Iterator[Requirement]:
    """Yield the requirements that the extras of an installed distribution add."""
    from packaging.requirements import Requirement

    if not requirement.extras:
        return
    for text in importlib.metadata.requires(requirement.name) or ():
        part = Requirement(text)
        if part.marker is None or part.marker.evaluate({"extra": ""}):
            continue
        if any(part.marker.evaluate({"extra": extra}) for extra in requirement.extras):
            yield part
