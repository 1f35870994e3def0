"""Find and run the checks of the plugins of a distribution or file; imports torch with a seam's checks only.

for outcome in examine("hft-mine"):
    print(outcome.plugin, outcome.check, outcome.result, outcome.message)
"""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hft_core.errors import PluginError
from hft_core.plugins.catalogue import Catalogue
from hft_core.plugins.entries import Entry, Provider, State, one_line
from hft_core.specs import SEAMS
from hft_core.testing.check import Check, Failed, NotClaimed, Outcome, Result, Subject
from hft_core.testing.spec_checks import CAN_BE_USED, CHECKS_OF_A_PROVIDER, CHECKS_OF_EVERY_SEAM

CHECKS = {seam: f"hft_core.testing.{seam}_checks" for seam in SEAMS}
"""The module with the list `CHECKS` of each seam."""


def checks_of(seam: str) -> tuple[Check, ...]:
    """Return the checks of one seam, those of every seam first. Empty for a seam without checks."""
    if seam not in CHECKS:
        return ()
    return (*CHECKS_OF_EVERY_SEAM, *importlib.import_module(CHECKS[seam]).CHECKS)


@dataclass(frozen=True)
class Case:
    """One check of one plugin."""

    subject: Subject
    check: Check

    @property
    def id(self) -> str:
        """`strategy-lora/resume-is-equal`"""
        return f"{self.subject.name}/{self.check.name}"

    def run(self) -> None:
        """Run the check. Raises `Failed`, `NotClaimed`, or whatever the plugin raises; restores torch's state."""
        from hft_core.testing import environment

        with environment.isolated():
            self.check.run(self.subject)

    def outcome(self) -> Outcome:
        """Run the check and return its outcome, also where the plugin raises."""
        began = time.perf_counter()
        result, message, trace = Result.HOLDS, "", ""
        try:
            self.run()
        except NotClaimed as reason:
            result, message = Result.NOT_CLAIMED, str(reason)
        except Failed as failure:
            result, message = Result.FAILS, str(failure)
        except Exception as error:
            result, message = Result.FAILS, f"expected: {self.check.says} Found {one_line(error)}"
            trace = "".join(traceback.format_exception(error))
        return Outcome(self.subject.name, self.check.name, result, message, trace, time.perf_counter() - began)


def cases(what: str | Path, catalogue: Catalogue | None = None) -> list[Case]:
    """List every check of every plugin of a distribution, or of a single file (`what` ends in `.py`).

    A plugin that cannot be used has one case, with the reason; a distribution without plugins, and a plugin of a seam
    without checks, has one that fails. `catalogue`: the plugins to search, the installed ones by default.
    """
    file = Path(what) if str(what).endswith(".py") else None
    try:
        catalogue = catalogue or Catalogue.discover(inline=[file] if file else [])
    except PluginError as error:
        return [_missing(str(what), str(error))]
    entries = [entry for entry in catalogue.entries if _belongs(entry.provider, str(what), file)]
    if not entries:
        return [_missing(str(what), f"no plugins: nothing that is installed under the name '{what}' has any")]
    whole = Subject(Entry("", str(what), None, entries[0].provider), catalogue)
    all_cases = [Case(whole, each) for each in CHECKS_OF_A_PROVIDER]
    for entry in entries:
        subject = Subject(entry, catalogue)
        all_cases.append(Case(subject, CAN_BE_USED))
        if entry.state is State.OK:
            checks = checks_of(entry.seam)
            all_cases += [Case(subject, each) for each in checks] or [_unknown_seam(subject)]
    return all_cases


def examine(what: str | Path, catalogue: Catalogue | None = None) -> Iterator[Outcome]:
    """Run the checks of a distribution or file one after another, without pytest."""
    for case in cases(what, catalogue):
        yield case.outcome()


def _belongs(provider: Provider, what: str, file: Path | None) -> bool:
    return provider.path == file.resolve() if file else provider.path is None and provider.matches(what)


def _missing(what: str, found: str) -> Case:
    """Make the failing case of a distribution or file without plugins."""

    def has_plugins(subject: Subject) -> None:
        """A distribution or file has plugins."""
        raise Failed(f"expected plugins of '{what}'; found {' '.join(found.split())}")

    nothing = Entry("", what, None, Provider(what), State.BROKEN, found)
    return Case(Subject(nothing, Catalogue([])), Check("has-plugins", "", has_plugins))


def _unknown_seam(subject: Subject) -> Case:
    def seam_has_checks(subject: Subject) -> None:
        """The plugin's seam has checks."""
        raise Failed(f"expected checks of the seam '{subject.entry.seam}'; found none, so that nothing was looked at")

    return Case(subject, Check("seam-has-checks", subject.entry.seam, seam_has_checks))
