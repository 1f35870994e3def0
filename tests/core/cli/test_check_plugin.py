"""`hft check-plugin` says what holds, what is not claimed and what fails, of whatever it is pointed at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from hft_core.cli import main

if TYPE_CHECKING:
    from tests.core.conftest import Site

SPECS = """
from hft_core import CombinerSpec, hookimpl

@hookimpl
def hft_combiners():
    return [CombinerSpec(name=name, summary="A combiner", factory=f"{module}.combiner:{{name}}",
                         options="{module}.combiner:Options") for name in ("sound", "upside_down")]
"""
COMBINER = """
from hft_core.combiner import Combiner
from hft_core.options import Options

class UpsideDown(Combiner):
    def forward(self, losses, present):
        print("noise")
        return -losses.sum()

    def epoch_finished(self):
        raise RuntimeError("no epochs here: \\x1b[2J")

def sound(options, *, tasks):
    return Combiner(tuple(tasks))

def upside_down(options, *, tasks):
    return UpsideDown(tuple(tasks))
"""
PROJECT = """
[project]
name = "{name}"
version = "3.2"

[project.entry-points.hft]
combiners = "{module}"
"""


@pytest.fixture(autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""


class Checker:
    """`hft check-plugin`, called in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def report(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        status = main(["check-plugin", "--json", *arguments])
        return status, json.loads(self.capsys.readouterr().out)

    def text(self, *arguments: str) -> tuple[int, str]:
        status = main(["check-plugin", *arguments])
        return status, self.capsys.readouterr().out

    def error(self, *arguments: str) -> str:
        """The one line of an error."""
        assert main(["check-plugin", *arguments]) == 2
        output = self.capsys.readouterr()
        assert output.out == ""
        (line,) = output.err.splitlines()
        return line


@pytest.fixture
def checker(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Checker:
    monkeypatch.chdir(tmp_path)
    return Checker(capsys)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")


def package(module: str) -> dict[str, str]:
    return {f"{module}/__init__.py": SPECS.format(module=module), f"{module}/combiner.py": COMBINER}


def failing(report: dict[str, Any]) -> set[str]:
    return {f"{o['plugin']}/{o['check']}" for o in report["outcomes"] if o["result"] == "fails"}


def test_an_installed_distribution_is_checked_plugin_by_plugin(site: Site, checker: Checker) -> None:
    site.add("hft-two-ways", package("hft_two_ways"), entries="combiners = hft_two_ways")
    status, report = checker.report("hft_two.ways")
    assert status == 1
    assert failing(report) == {
        "combiner-upside_down/one-task-keeps-its-direction",
        "combiner-upside_down/tasks-that-agree-get-their-mean",
        "combiner-upside_down/an-absent-task-is-left-out",
        "combiner-upside_down/its-state-goes-on-where-it-was",
        "combiner-upside_down/one-task-can-be-the-whole-stage",
    }
    results = [outcome["result"] for outcome in report["outcomes"]]
    assert (report["holds"], report["not_claimed"], report["fails"]) == (
        results.count("holds"),
        results.count("not claimed"),
        5,
    )
    assert all(bool(o["message"]) == (o["result"] != "holds") for o in report["outcomes"])
    assert checker.report("hft-two-ways", "--name", "sound")[0] == 0


def test_what_is_printed_has_a_line_a_check_with_its_reason_and_a_summary(site: Site, checker: Checker) -> None:
    site.add("hft-shown", package("hft_shown"), entries="combiners = hft_shown")
    status, text = checker.text("hft-shown")
    assert status == 1
    lines = text.splitlines()
    assert lines[0] == "hft-shown 0.1"
    assert lines[1:4] == ["  holds        some-plugin-can-be-used", "  holds        listing-is-light", ""]
    assert {"combiner-sound", "combiner-upside_down"} <= set(lines)
    assert "  not claimed  no-task-is-worked-against: the spec says non_conflicting=False" in lines
    failure = r"  fails        tasks-that-agree-get-their-mean: expected .*; found multiples \[-.*"
    assert any(re.fullmatch(failure, line) for line in lines)
    assert re.fullmatch(r"\d+ hold, \d+ not claimed, 5 fail, in \d+\.\d s", lines[-1])
    assert "noise" not in text, "what a plugin prints is not part of the report"
    assert "\\x1b[2J" in text
    assert "\x1b" not in text
    assert "Traceback" not in text
    assert "Traceback" in checker.text("hft-shown", "--debug")[1]


def test_seam_and_name_choose_among_the_plugins(site: Site, checker: Checker) -> None:
    site.add("hft-choose", package("hft_choose"), entries="combiners = hft_choose")
    status, report = checker.report("hft-choose", "--seam", "combiner", "--name", "sound")
    assert (status, {o["plugin"] for o in report["outcomes"]}) == (0, {"combiner-sound"})
    assert "unknown seam 'combine'. Did you mean 'combiner'?" in checker.error("hft-choose", "--seam", "combine")
    assert "hft-choose 0.1 has no strategy." in checker.error("hft-choose", "--seam", "strategy")
    error = checker.error("hft-choose", "--name", "sond")
    assert "hft-choose 0.1 has no plugin 'sond'. Did you mean 'sound'?" in error


def test_a_single_file_is_checked(checker: Checker, tmp_path: Path) -> None:
    code = SPECS.format(module="alone").replace("alone.combiner:", "alone:") + COMBINER
    write(tmp_path, {"alone.py": code})
    status, report = checker.report("alone.py", "--name", "sound")
    assert (status, report["fails"]) == (0, 0)
    assert report["checked"] == "alone.py"
    write(tmp_path, {"broken.py": "import no_such_module_anywhere"})
    assert "plugin file 'broken.py': import failed" in checker.error("broken.py")
    assert "plugin file 'gone.py': cannot be read" in checker.error("gone.py")


@pytest.mark.parametrize("layout", ["flat", "src"])
def test_a_project_is_checked_without_being_installed(layout: str, checker: Checker, tmp_path: Path) -> None:
    module = f"hft_{layout}"
    place = "project/src" if layout == "src" else "project"
    write(tmp_path, {f"{place}/{name}": text for name, text in package(module).items()})
    write(tmp_path / "project", {"pyproject.toml": PROJECT.format(name="hft-layout", module=module)})
    status, report = checker.report("project", "--name", "sound")
    assert (status, report["fails"]) == (0, 0)
    status, text = checker.text("./project", "--name", "sound")
    assert text.splitlines()[0] == f"hft-layout 3.2, from {(tmp_path / 'project').resolve()}"


def test_a_project_that_is_not_installed_has_to_be_light_too(checker: Checker, tmp_path: Path) -> None:
    files = package("hft_leaden")
    files["hft_leaden/__init__.py"] += "\nimport torch\n"
    write(tmp_path, {**files, "pyproject.toml": PROJECT.format(name="hft-leaden", module="hft_leaden")})
    status, report = checker.report(".")
    assert status == 1
    assert "hft-leaden/listing-is-light" in failing(report)


def test_the_folder_of_a_package_alone_is_checked(checker: Checker, tmp_path: Path) -> None:
    write(tmp_path, package("hft_bare"))
    status, report = checker.report("hft_bare", "--name", "sound")
    assert (status, report["fails"]) == (0, 0)


def test_the_installed_one_is_meant_unless_a_path_says_otherwise(site: Site, checker: Checker, tmp_path: Path) -> None:
    site.add("hft-both", package("hft_both"), entries="combiners = hft_both")
    changed = {name: text.replace('"sound"', '"sound", "other"') for name, text in package("hft_changed").items()}
    changed["hft_changed/combiner.py"] += "\nother = sound\n"
    write(tmp_path / "hft-both", {**changed, "pyproject.toml": PROJECT.format(name="hft-both", module="hft_changed")})
    assert "has no plugin 'other'" in checker.error("hft-both", "--name", "other")
    assert checker.report("./hft-both", "--name", "other")[0] == 0
    assert checker.report("hft-both", "--name", "sound")[0] == 0


def test_what_cannot_be_found_is_one_error_with_the_nearest_name(site: Site, checker: Checker, tmp_path: Path) -> None:
    site.add("hft-nearly", package("hft_nearly"), entries="combiners = hft_nearly")
    assert "Did you mean 'hft-nearly'?" in checker.error("hft-nearley")
    assert "'pluggy' has no plugins: expected a hook" in checker.error("pluggy")
    (tmp_path / "empty").mkdir()
    expected = "expected a pyproject.toml or the __init__.py of a package; found neither"
    assert expected in checker.error("empty")
    assert "no such folder" in checker.error("./gone")
    write(tmp_path, {"other/pyproject.toml": "[project]\nname = 'other'"})
    assert "expected entry points under [project.entry-points.hft]; found none" in checker.error("other")
    write(tmp_path, {"other/pyproject.toml": "[project"})
    assert "pyproject.toml cannot be read" in checker.error("other")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('boom')", "entry point 'combiners' is broken: import failed: ValueError: boom"),
        ("from hft_core import hookimpl\n@hookimpl\ndef hft_combinres(): return []", "Did you mean 'hft_combiners'?"),
        (SPECS.format(module="m").replace("options=", "api=99, options="), "combiner 'sound' is incompatible"),
        (SPECS.format(module="m").replace("options=", "requires=('no-such',), options="), "is needs no-such"),
    ],
)
def test_a_distribution_of_which_nothing_can_be_used_is_one_error(
    code: str, reason: str, site: Site, checker: Checker
) -> None:
    site.add("hft-useless", {"hft_useless.py": code}, entries="combiners = hft_useless")
    error = checker.error("hft-useless")
    assert "hft-useless 0.1 has no plugin that can be used: " in error
    assert reason in error


def test_a_broken_part_is_a_failure_beside_what_works(site: Site, checker: Checker) -> None:
    files = {**package("hft_partly"), "hft_torn.py": "raise ValueError('boom')"}
    site.add("hft-partly", files, entries="combiners = hft_partly\nheads = hft_torn")
    status, report = checker.report("hft-partly")
    assert status == 1
    assert {"hft-partly/listing-is-light", "heads/can-be-used"} <= failing(report)


def test_it_needs_no_pytest(site: Site) -> None:
    site.add("hft-untested", package("hft_untested"), entries="combiners = hft_untested")
    code = (
        "import sys; sys.modules['pytest'] = None; from hft_core.cli import main; "
        "sys.exit(main(['check-plugin', 'hft-untested', '--name', 'sound']))"
    )
    done = site.python("-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
