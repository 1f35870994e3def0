"""The built-in plugins pass the suite that authors of plugins run, and nothing is left out of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent

import pytest

from hft_core import Catalogue, UsageError
from hft_core.plugins.entries import State
from hft_core.testing import Result, cases, checks_of, conformance, examine

ROOT = Path(__file__).parents[3]
DISTRIBUTION = "hft-core"

test_built_in_plugins_conform = conformance(DISTRIBUTION)

AT_LEAST = {"backbone": 16, "head": 19, "strategy": 20, "combiner": 18, "recipe": 7, "tracker": 8, "launcher": 10}
"""Checks of a seam: fewer are a loss that has to be meant."""

INLINE = """
import torch
from hft_core import CombinerSpec, hookimpl
from hft_core.combiner import Combiner
from hft_core.options import Options

class Half(Combiner):
    def forward(self, losses, present):
        return 0.5 * losses.sum()

def build(options, *, tasks):
    return Half(tuple(tasks))

@hookimpl
def hft_combiners():
    return [CombinerSpec(name="half", summary="Half of the sum", factory="half:build", options="half:Options")]
"""


def test_every_usable_built_in_plugin_meets_every_check_of_its_seam() -> None:
    found = Counter(case.subject.name for case in cases(DISTRIBUTION))
    entries = [e for e in Catalogue.discover().entries if e.provider.distribution == DISTRIBUTION]
    wanted = {f"{e.seam}-{e.name}": 1 + len(checks_of(e.seam)) for e in entries if e.state is State.OK}
    assert wanted
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("seam", AT_LEAST)
def test_a_seam_has_no_fewer_checks_than_it_had_and_each_says_what_holds(seam: str) -> None:
    checks = checks_of(seam)
    assert len(checks) >= AT_LEAST[seam]
    assert len({check.name for check in checks}) == len(checks)
    assert all(check.says.endswith(".") for check in checks)


def test_a_single_file_is_checked_without_pytest(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text(INLINE)
    outcomes = list(examine(file))
    assert {o.plugin for o in outcomes} == {str(file), "combiner-half"}
    assert [o for o in outcomes if o.result is Result.FAILS] == []
    assert sum(o.result is Result.HOLDS for o in outcomes) >= len(checks_of("combiner")) - 2
    assert all(bool(o.message) == (o.result is not Result.HOLDS) for o in outcomes)


def test_a_test_of_one_line_runs_every_check_and_names_what_fails(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(INLINE.replace("0.5 * losses", "-0.5 * losses"))
    (tmp_path / "test_half.py").write_text(
        dedent("""
        from pathlib import Path
        import hft_core.testing
        test_conformance = hft_core.testing.conformance(
            Path(__file__).with_name("half.py"),
            expected_failures={"combiner-half/one-task-keeps-its-direction": "it goes the other way"},
        )
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "expected a positive multiple of the mean; found multiples [-" in done.stdout
    assert "1 xfailed" in done.stdout
    assert "1 failed" in done.stdout


def test_an_expected_failure_has_to_name_a_case(tmp_path: Path) -> None:
    file = tmp_path / "half.py"
    file.write_text(INLINE)
    with pytest.raises(UsageError, match=r"no case 'combiner-half/results-stay-finit'.* Did you mean"):
        conformance(file, expected_failures={"combiner-half/results-stay-finit": "never"})


@pytest.mark.parametrize("name", ["hft-nobody", "nothing.py"])
def test_nothing_to_check_is_a_failure(name: str) -> None:
    (outcome,) = examine(name)
    assert outcome.result is Result.FAILS
    assert f"expected plugins of '{name}'" in outcome.message


def test_the_page_is_what_its_writer_makes_of_the_checks() -> None:
    spec = spec_from_file_location("conformance_page", ROOT / "docs" / "reference" / "conformance_page.py")
    assert spec is not None
    assert spec.loader is not None
    writer = module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.PAGE.read_text(encoding="utf-8") == writer.page(), "run: python docs/reference/conformance_page.py"
