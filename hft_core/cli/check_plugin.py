"""`hft check-plugin`: the conformance suite on one distribution, folder or file, without pytest."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hft_core.cli.source_folder import SourceFolder, importable
from hft_core.cli.terminal import plain, print_json, say
from hft_core.errors import PluginError, did_you_mean
from hft_core.plugins.entries import Entry, State
from hft_core.specs import SEAMS

if TYPE_CHECKING:
    from hft_core.cli.invocation import Invocation
    from hft_core.plugins.catalogue import Catalogue, Provider
    from hft_core.testing import Case, Outcome


def check_plugin(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="DIST|PATH", help="A distribution, a .py file, or a package's folder.")
    ],
    seam: Annotated[str, typer.Option(metavar="SEAM", help="Only plugins of this seam.")] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="Only plugins of this name.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check plugins against the contract of their seam; exit with 1 if one fails."""
    if seam and seam not in SEAMS:
        raise PluginError(f"unknown seam '{seam}'.{did_you_mean(seam, SEAMS)}")
    target = Target.of(what)
    with target.on_the_path():
        cases = cases_of(target, ctx.obj, seam, name)
        outcomes = outcomes_of(cases)
        if not as_json:
            outcomes = _printed(outcomes, target, cases[0].subject.entry.provider, debug=ctx.obj.debug)
        done = list(outcomes)
    counts = Counter(str(outcome.result) for outcome in done)
    if as_json:
        totals = {key: counts[key.replace("_", " ")] for key in ("holds", "not_claimed", "fails")}
        print_json({"checked": what, **totals, "outcomes": [asdict(outcome) for outcome in done]})
    else:
        seconds = sum(outcome.seconds for outcome in done)
        say()
        say(f"{counts['holds']} hold, {counts['not claimed']} not claimed, {counts['fails']} fail, in {seconds:.1f} s")
    if counts["fails"]:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Target:
    """The plugins to check."""

    name: str
    """Of the distribution; of a single file, its path."""
    file: Path | None = None
    source: SourceFolder | None = None
    """The sources of a distribution, used instead of an installed one."""

    @classmethod
    def of(cls, what: str) -> Target:
        """Interpret `what` as a path if it has a separator, or if it is a folder and no installed distribution.

        Raises `PluginError` for a folder that holds no package.
        """
        if what.endswith(".py"):
            return cls(what, file=Path(what))
        is_path = os.sep in what or "/" in what or what in (".", "..")
        if is_path or (Path(what).is_dir() and not is_installed(what)):
            source = SourceFolder.read(Path(what))
            return cls(source.distribution, source=source)
        return cls(what)

    def on_the_path(self) -> contextlib.AbstractContextManager[None]:
        """Make the plugins importable within the block."""
        return importable(self.source) if self.source else contextlib.nullcontext()


def cases_of(target: Target, invocation: Invocation, seam: str, name: str) -> list[Case]:
    """List the checks of the target's plugins, or of those of one seam or name.

    Raises `PluginError` when there are none, or no plugin can be used.
    """
    plugins = [*invocation.plugins, *([str(target.file)] if target.file else [])]
    catalogue = replace(invocation, plugins=plugins).catalogue
    from hft_core.testing import cases
    from hft_core.testing.spec_checks import CAN_BE_USED

    # Each plugin has this check among its cases, whatever its state.
    found = cases(target.file or target.name, catalogue)
    entries = [case.subject.entry for case in found if case.check is CAN_BE_USED]
    if not entries:
        raise PluginError(_nothing_found(target, catalogue))
    label = entries[0].provider.label
    if not any(entry.state is State.OK for entry in entries):
        raise PluginError(f"{label} has no plugin that can be used: {'; '.join(map(_state, entries))}")
    if not seam and not name:
        return found
    chosen = [case for case in found if case.subject.entry.seam and _is_meant(case.subject.entry, seam, name)]
    if not chosen:
        known = [entry.name for entry in entries if _is_meant(entry, seam, "")]
        wanted = f"{seam or 'plugin'} '{name}'" if name else seam
        silent = "".join(f" {_state(entry)}." for entry in entries if not entry.seam)
        raise PluginError(f"{label} has no {wanted}.{did_you_mean(name, known)}{silent}")
    return chosen


def outcomes_of(cases: Sequence[Case]) -> Iterator[Outcome]:
    """Run the cases one after another."""
    for case in cases:
        # What a plugin prints must not mix with JSON output.
        with contextlib.redirect_stdout(sys.stderr):
            outcome = case.outcome()
        yield outcome


def is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _is_meant(entry: Entry, seam: str, name: str) -> bool:
    return seam in ("", entry.seam) and name in ("", entry.name)


def _state(entry: Entry) -> str:
    return f"{entry.seam or 'entry point'} '{entry.name}' is {entry.status}: {entry.reason}"


def _nothing_found(target: Target, catalogue: Catalogue) -> str:
    """Explain why there is nothing to check."""
    if target.file or target.source or is_installed(target.name):
        return f"'{target.name}' has no plugins: expected a hook such as hft_strategies that returns specs"
    known = (entry.provider.distribution for entry in catalogue.entries if entry.provider.path is None)
    return (
        f"'{target.name}': no distribution of that name is installed, and there is no such folder."
        f"{did_you_mean(target.name, known)}"
    )


def _printed(outcomes: Iterable[Outcome], target: Target, provider: Provider, *, debug: bool) -> Iterator[Outcome]:
    """Print each outcome on a line below the name of its plugin, and pass it on."""
    say(f"{provider.label}, from {target.source.path[0]}" if target.source else provider.label)
    heading = provider.distribution
    for outcome in outcomes:
        if outcome.plugin != heading:
            heading = outcome.plugin
            say()
            say(heading)
        reason = f": {outcome.message}" if outcome.message else ""
        say(f"  {outcome.result:<11}  {outcome.check}{reason}")
        for line in outcome.traceback.splitlines() if debug else ():
            print(f"      {plain(line)}")
        sys.stdout.flush()
        yield outcome
