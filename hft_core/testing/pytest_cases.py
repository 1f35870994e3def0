"""Run the conformance suite as a pytest test; the only module of `hft_core` that imports pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hft_core.errors import UsageError, did_you_mean
from hft_core.plugins.catalogue import Catalogue
from hft_core.testing.check import Failed, NotClaimed
from hft_core.testing.suite import Case, cases

try:
    import pytest
except ImportError as error:
    raise UsageError("conformance tests need pytest: pip install 'hft-core[test]'") from error


def conformance(
    what: str | Path, *, expected_failures: Mapping[str, str] | None = None, catalogue: Catalogue | None = None
) -> Callable[[Case], None]:
    """Make a pytest test of every plugin of the distribution `what`, or of the file of that path::

        test_conformance = conformance("hft-mine")

    `expected_failures`: the reason why a case fails, by its id (`strategy-mine/resume-is-equal`); the test fails when
    the case passes. `catalogue`: the plugins to search, the installed ones by default.

    Raises `UsageError` when `expected_failures` names no case.
    """
    listed = cases(what, catalogue)
    reasons = dict(expected_failures or {})
    known = [case.id for case in listed]
    for name in reasons:
        if name not in known:
            raise UsageError(
                f"conformance of '{what}': expected_failures: no case '{name}'.{did_you_mean(name, known)}"
            )
    marks = {name: [pytest.mark.xfail(reason=reason, strict=True)] for name, reason in reasons.items()}

    @pytest.mark.parametrize("case", [pytest.param(case, id=case.id, marks=marks.get(case.id, [])) for case in listed])
    def test_conformance(case: Case) -> None:
        try:
            case.run()
        except NotClaimed as reason:
            pytest.skip(str(reason))
        except Failed as failure:
            pytest.fail(str(failure), pytrace=False)

    return test_conformance
