"""`hft new-plugin` writes packages that pass the conformance suite as they are, under names that can be installed."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hft_core.cli import main
from hft_core.specs import SEAMS

if TYPE_CHECKING:
    from tests.core.conftest import Site

HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "yaml"}


def made(folder: Path, seam: str, name: str) -> dict[str, str]:
    """The files of a new package by path."""
    assert main(["new-plugin", seam, name, "--out", str(folder)]) == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


@pytest.mark.parametrize("seam", SEAMS)
def test_what_is_written_conforms_at_once(
    seam: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    made(tmp_path / "new", seam, f"fresh-{seam}")
    capsys.readouterr()
    status = main(["check-plugin", str(tmp_path / "new"), "--json"])
    report = json.loads(capsys.readouterr().out)
    failed = [outcome for outcome in report["outcomes"] if outcome["result"] == "fails"]
    assert (status, failed) == (0, [])
    assert {outcome["plugin"] for outcome in report["outcomes"]} == {f"hft-fresh-{seam}", f"{seam}-fresh-{seam}"}
    assert report["holds"] >= 10


@pytest.mark.parametrize("seam", SEAMS)
def test_a_package_has_the_same_few_files_and_no_trace_of_the_template(seam: str, tmp_path: Path) -> None:
    files = made(tmp_path / "new", seam, "a-name-of-thirty-characters-abc")
    package = "hft_a_name_of_thirty_characters_abc"
    code = {f"{package}/__init__.py", f"{package}/{seam}.py", "tests/test_conformance.py"}
    assert code | {"pyproject.toml", "README.md"} <= set(files)
    assert not re.search(r"my.?plugin|\bSEAM\b|\bHOOK\b", "".join([*files, *files.values()]), re.IGNORECASE)
    for path in code:
        compile(files[path], path, "exec")
        assert max(map(len, files[path].splitlines())) <= 120, path
    lines = [line for line in files["tests/test_conformance.py"].splitlines() if line]
    assert lines == [
        "from hft_core.testing import conformance",
        'test_conformance = conformance("hft-a-name-of-thirty-characters-abc")',
    ]


@pytest.mark.parametrize(
    ("given", "plugin", "distribution"),
    [
        ("galore", "galore", "hft-galore"),
        ("hft-galore", "galore", "hft-galore"),
        ("GaLore_2", "GaLore_2", "hft-galore-2"),
        ("class", "class", "hft-class"),
        ("3d-", "3d-", "hft-3d"),
    ],
)
def test_all_names_follow_from_the_plugins(given: str, plugin: str, distribution: str, tmp_path: Path) -> None:
    files = made(tmp_path / "new", "strategy", given)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    package = distribution.replace("-", "_")
    assert (project["name"], project["entry-points"]) == (distribution, {"hft": {"strategies": package}})
    assert f'name="{plugin}"' in files[f"{package}/__init__.py"]
    compile(files[f"{package}/strategy.py"], "strategy.py", "exec")


def test_it_prints_the_commands_that_come_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-plugin", "head", "galore"]) == 0
    _, _, after = capsys.readouterr().out.partition("next:\n")
    assert after.splitlines() == [
        "  pip install --editable ./hft-galore",
        "  hft check-plugin hft-galore",
        "  hft describe head galore",
    ]
    assert (tmp_path / "hft-galore" / "hft_galore" / "head.py").is_file()
    assert main(["new-plugin", "head", "galore", "--out", "a b"]) == 0
    assert shlex.quote("./a b") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["strategie", "mine"], "unknown seam 'strategie'. Did you mean 'strategy'?"),
        (["strategy", "my thing"], "letter or digit first. Did you mean 'my-thing'?"),
        (["strategy", "../mine"], "Did you mean 'mine'?"),
        (["strategy", "../.."], "plugin name '../..': expected up to 64 letters"),
        (["strategy", "lora"], "strategy 'lora' is there already, from hft-core"),
        (["combiner", "core"], "a module called hft_core is installed already"),
        (["combiner", "plugins"], "a module called hft_plugins is installed already"),
        (["strategy", "mine", "--out", "taken"], "taken exists already: name a new folder with --out"),
        (["strategy", "mine", "--out", "file/below"], "file/below cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    assert main(["new-plugin", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert {path.name for path in tmp_path.rglob("*")} == {"taken", "file"}


def test_writing_a_package_loads_nothing_heavy(site: Site) -> None:
    code = (
        "import sys; from hft_core.cli import main; "
        "code = main(['new-plugin', 'backbone', 'galore']); print(code, *sys.modules, file=sys.stderr)"
    )
    code, *modules = site.python("-c", code).stderr.split()
    assert code == "0"
    assert not HEAVY & {module.partition(".")[0] for module in modules}
