"""Each bad input of the table, met by the command line: one line that says where and what, the right exit code, and
nothing lost. `docs/reference/bad-input.md` shows the same table."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from hft_core.cli import main
from hft_core.runtime.run_folder import LOG_FILE

if TYPE_CHECKING:
    from tests.e2e.bad_inputs import Case, Surroundings

ROOT = Path(__file__).parents[2]
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells its processes; libraries set some of it for a process that is alone."""


def _table() -> ModuleType:
    folder, name = Path(__file__).with_name("bad_inputs"), "hft_bad_inputs"
    spec = spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


bad_inputs = _table()
CASES: dict[str, Case] = {f"{where}: {case.what}": case for where, cases in bad_inputs.TABLE.items() for case in cases}


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory, models: Any, toys: Any) -> Surroundings:
    return bad_inputs.Surroundings(tmp_path_factory.mktemp("good"), models, toys.rows(bad_inputs.ROWS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "user"


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_is_told_in_one_line_and_nothing_is_lost(
    name: str,
    folder: Path,
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case = CASES[name]
    for package in case.packages:
        pytest.importorskip(package)
    before = _made(case, folder, surroundings)
    for key in LAUNCHED:
        monkeypatch.delenv(key, raising=False)
    for key, value in case.variables.items():
        monkeypatch.setenv(key, value)
    monkeypatch.syspath_prepend(str(folder / "site"))
    loaded = set(sys.modules)
    capfd.readouterr()  # what making the models showed
    with bad_inputs.inside(folder), _limited(case.largest_file):
        code = main(shlex.split(case.command))
    for module in [m for m in sys.modules.keys() - loaded if m.partition(".")[0].startswith("hft_x")]:
        del sys.modules[module]
    _check(case, code, capfd.readouterr().err, folder, surroundings)
    _check_files(case, before, folder)


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.process])
def test_a_process_of_its_own_says_the_same(name: str, folder: Path, surroundings: Surroundings) -> None:
    case = CASES[name]
    before = _made(case, folder, surroundings)
    limit = ["sh", "-c", f'ulimit -f {case.largest_file // 512}; exec "$@"', "sh"] if case.largest_file else []
    done = subprocess.run(
        [*limit, sys.executable, "-m", "hft_core", *shlex.split(case.command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site"), **case.variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    _check(case, done.returncode, done.stderr, folder, surroundings)
    _check_files(case, before, folder)


def test_the_table_covers_every_kind_of_input_and_names_each_case_once() -> None:
    assert len(CASES) == sum(map(len, bad_inputs.TABLE.values())) >= 100
    assert min(map(len, bad_inputs.TABLE.values())) >= 5
    assert sum(case.process for case in CASES.values()) >= 10
    made = Counter((where, case.command, case.says) for where, cases in bad_inputs.TABLE.items() for case in cases)
    assert all(case.says.strip("…") for case in CASES.values()) and made


def _made(case: Case, folder: Path, surroundings: Surroundings) -> dict[Path, bytes]:
    """The bad input in its folder; all files there."""
    surroundings.copy_to(folder, case.needs)
    case.given(folder)
    return _files(folder)


def _files(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@contextmanager
def _limited(largest_file: int) -> Iterator[None]:
    """The system refuses to write more to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file or before[0], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _check(case: Case, code: int, printed: str, folder: Path, surroundings: Surroundings) -> None:
    assert "Traceback" not in printed
    label = "stopped by " if case.code > 128 else "error: "  # a stop by the user is no error
    errors = [line for line in printed.splitlines() if line.startswith(label)]
    assert len(errors) == 1, printed
    assert label == "error: " or "error: " not in printed
    if case.code == 2:
        assert printed == errors[0] + "\n", "what is wrong before training is told in one line and no more"
    message = errors[0].removeprefix("error: ")
    for place in (folder, surroundings.template, surroundings.place):
        message = message.replace(f"{place}/", "").replace(str(place), ".")
    print(f"@@ {case.what}: {message}")
    assert not message.startswith("unexpected"), "a fault of hft itself"
    assert case.pattern.fullmatch(message), f"expected: {case.says}\nfound:    {message}"
    assert code == case.code


def _check_files(case: Case, before: dict[Path, bytes], folder: Path) -> None:
    after = _files(folder)
    for path, content in before.items():
        kept = after.get(path, b"")
        assert kept == content or (path.name == LOG_FILE and kept.startswith(content)), f"{path} was changed or lost"
    if case.code == 2:
        assert after.keys() == before.keys(), "what was refused leaves nothing in the way of the next try"
    if case.largest_file:
        assert not any(path.name.startswith(".") for path in after), "nothing half written stays behind"
