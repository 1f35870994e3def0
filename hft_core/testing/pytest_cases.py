"""The conformance suite as a pytest test; the only module of `hft_core` that imports pytest."""

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
    """A pytest test of every plugin of the distribution `what`, or of the single file of that path::

        test_conformance = conformance("hft-mine")

    `expected_failures`: by the id of a case (`strategy-mine/resume-is-equal`), why it cannot hold; the test fails when
    it does hold after all. `catalogue`: where the plugins are looked for, instead of what is installed.

    Raises `UsageError` when `expected_failures` names no case.
    """
    found = cases(what, catalogue)
    reasons = dict(expected_failures or {})
    known = [case.id for case in found]
    for name in reasons:
        if name not in known:
            raise UsageError(
                f"conformance of '{what}': expected_failures: no case '{name}'.{did_you_mean(name, known)}"
            )
    marks = {name: [pytest.mark.xfail(reason=reason, strict=True)] for name, reason in reasons.items()}

    @pytest.mark.parametrize("case", [pytest.param(case, id=case.id, marks=marks.get(case.id, [])) for case in found])
    def test_conformance(case: Case) -> None:
        try:
            case.run()
        except NotClaimed as reason:
            pytest.skip(str(reason))
        except Failed as failure:
            pytest.fail(str(failure), pytrace=False)

    return test_conformance
