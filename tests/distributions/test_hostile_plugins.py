"""Thirty third-party distributions in one environment, most of them at fault: none is in anybody else's way."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.distributions.conftest import Environment

pytestmark = pytest.mark.slow

COUNT = "import sys; from hft_core.cli import main; main(sys.argv[1:]); print(len(sys.modules), file=sys.stderr)"

EXPECTED = {
    "hft-torch": [("torchy", "ok", "", r"slow: importing its entry module took \d+\.\d s \(torch\)")],
    "hft-raises": [("plugins", "broken", r"^import failed: RuntimeError: boom$", "")],
    "hft-twin-a": [("twin", "conflict", r"hft-twin-a 0\.1 and by hft-twin-b 0\.2; write 'hft-twin-a:twin' or", "")],
    "hft-twin-b": [("twin", "conflict", r"hft-twin-a 0\.1 and by hft-twin-b 0\.2; write 'hft-twin-a:twin' or", "")],
    "hft-usurper": [("pcgrad", "conflict", r"provided by hft-core 0\.1\.0 and by hft-usurper 0\.1; write", "")],
    "hft-newer": [("newer", "incompatible", r"^written for hook API 99, and this hft-core supports 1$", "")],
    "hft-newer-core": [("plugins", "incompatible", r"^hft-core 0\.1\.0 is installed, hft-core>=99 is needed", "")],
    "hft-misspells": [("plugins", "broken", r"^unknown hook 'hft_combinres'\. Did you mean 'hft_combiners'\?$", "")],
    "hft-odd": [("plugins", "broken", r"returned a (int|object), expected a CombinerSpec", "")] * 2,
    "hft-sleeps": [("sleepy", "ok", "", r"slow: importing its entry module took 0\.\d s, which every")],
    "hft-exits": [("plugins", "broken", r"^import failed: SystemExit: 0$", "")],
    "hft-prints": [("printy", "ok", "", "")],
    "hft-escapes": [("escapes", "ok", "", "")],
    "hft-escapes-name": [("@SUM(1+1)*cmd", "broken", r"plugin name '=HYPERLINK.*is not of the form", "")],
    "hft-path": [("../../etc/cron.d/x", "broken", r"plugin name '\.\./\.\./etc/cron\.d/x' is not of the form", "")],
    "hft-observes": [("plugins", "ok", "", "")],
    "hft-opens": [("opens-all", "ok", "", ""), ("opens-none", "ok", "", "")],
}
"""Name, state, reason and warning of each entry of a distribution. `hft-parrot` offers the built-in combiners again."""


@pytest.fixture(scope="module")
def strangers() -> ModuleType:
    path = Path(__file__).with_name("strangers.py")
    spec = importlib.util.spec_from_file_location("hft_test_strangers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def crowded(
    make_environment: Any, wheel: Path, strangers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with hft-core and all thirty strangers."""
    made: Environment = make_environment(tmp_path_factory.mktemp("crowded"))
    folder = tmp_path_factory.mktemp("wheels")
    made.install(wheel, *(stranger.wheel(folder) for stranger in strangers.ALL))
    return made


def rows(environment: Environment, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(environment.run("hft", "list-plugins", "--json", *arguments, **variables))
    return found


def test_each_of_thirty_is_listed_with_what_is_wrong_with_it(crowded: Environment, strangers: ModuleType) -> None:
    assert len(strangers.ALL) == 30
    by_provider: dict[str, list[dict[str, Any]]] = {}
    for row in rows(crowded):
        by_provider.setdefault(row["provider"], []).append(row)
    assert set(by_provider) == {stranger.name for stranger in strangers.ALL} | {"hft-core"}
    for provider, expected in EXPECTED.items():
        found = by_provider[provider]
        assert len(found) == len(expected), found
        for row, (name, state, reason, warning) in zip(found, expected, strict=True):
            print(f"{provider:18}{row['name']:20}{row['state']:14}{row['reason'] or '; '.join(row['warnings'])}")
            assert (row["name"], row["state"]) == (name, state)
            assert re.search(reason, row["reason"]) if reason else row["reason"] == ""
            told = [text for text in row["warnings"] if not text.startswith("slow: ") or warning]
            assert any(re.search(warning, text) for text in told) if warning else told == []
    healthy = [row for provider, found in by_provider.items() if "healthy" in provider for row in found]
    assert len(healthy) == 30 - len(strangers.BAD)
    assert {(row["state"], row["reason"]) for row in healthy} == {("ok", "")}
    copies = by_provider["hft-parrot"]
    assert {(row["state"], row["reason"].endswith("of hft-core 0.1.0 once more")) for row in copies} == {
        ("conflict", True)
    }
    own = {row["name"]: row["state"] for row in by_provider["hft-core"]}
    assert {name for name, state in own.items() if state == "conflict"} == {"pcgrad"}


def test_the_table_names_the_slow_and_the_broken_and_no_text_of_theirs_reaches_the_terminal(
    crowded: Environment,
) -> None:
    table = crowded.run("hft", "list-plugins")
    assert table.splitlines()[0].split() == [
        "seam", "name", "summary", "provider", "version", "state", "capabilities", "source",
    ]  # fmt: skip
    assert re.search(r"^hft-torch 0\.1: slow: importing its entry module took \d+\.\d s \(torch\)", table, re.MULTILINE)
    assert "plugins plugins (hft-raises 0.1) is broken: import failed: RuntimeError: boom" in table
    assert "Traceback" not in table
    assert "NOISE" not in table
    verbose = crowded.run("hft", "list-plugins", "--verbose", "--provider", "hft-raises")
    assert re.search(r"Traceback.*hft_raises.__init__\.py.*RuntimeError: boom", verbose, re.DOTALL)
    as_json = crowded.run("hft", "list-plugins", "--json")
    for output in (table, as_json, crowded.run("hft", "describe", "combiner", "escapes")):
        assert not re.search("[\x1b\x9b\u202e]", output)
    assert "[red]x[/red] <b>x</b>" in table, "markup is shown, not obeyed"


def test_the_built_in_plugins_train_evaluate_and_reopen_among_them(
    crowded: Environment, models: Any, toys: Any, tmp_path: Path
) -> None:
    with open(tmp_path / "topics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(toys.rows(40))
    backbone = f"--backbone={models['bert']}"  # no type: every backbone that says it opens the folder is in question
    task = f"--task=topic=classification:{tmp_path / 'topics.csv'}"
    run = tmp_path / "run"
    what = ("--strategy=lora", "--combiner=sum", "--set=stages.0.max_steps=2", f"--out={run}")
    crowded.run("hft", "run", backbone, task, *what, HF_HUB_OFFLINE="1")
    results = json.loads((run / "results.json").read_text())
    assert {used["distribution"] for used in results["plugins"]} == {"hft-core"}
    assert any("observer 'hft-observes 0.1' failed at 'run_started'" in text for text in results["warnings"])
    scores = json.loads(crowded.run("hft", "evaluate", run, "--json", HF_HUB_OFFLINE="1"))
    assert scores["test"]["topic"].keys() - {"by_label"} == results["final"]["test"]["topic"].keys()


def test_a_name_taken_twice_is_an_error_only_where_it_is_used_and_a_prefix_solves_it(crowded: Environment) -> None:
    failed = subprocess.run(
        [crowded.bin / "hft", "describe", "combiner", "pcgrad"], capture_output=True, text=True, cwd=crowded.folder
    )
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1] == (
        "error: combiner 'pcgrad' is provided by hft-core 0.1.0 and by hft-usurper 0.1; write 'hft-core:pcgrad' or "
        "'hft-usurper:pcgrad', or block one of them"
    )
    assert "provider: hft-core" in crowded.run("hft", "describe", "combiner", "hft-core:pcgrad")
    assert "provider: hft-core" in crowded.run("hft", "describe", "combiner", "pcgrad", "--block", "hft-usurper")
    assert "provider: hft-core" in crowded.run("hft", "describe", "combiner", "uncertainty")


def test_a_plugin_that_is_not_there_is_looked_up_in_the_index_that_the_wheel_has(crowded: Environment) -> None:
    def told(*what: str) -> str:
        done = subprocess.run(
            [crowded.bin / "hft", "describe", *what, "--no-third-party"],
            capture_output=True,
            text=True,
            cwd=crowded.folder,
        )
        assert done.returncode == 2
        return done.stderr

    assert "It is a strategy of hft-lora-pro, which is not loaded: pip install hft-lora-pro." in told(
        "strategy", "lora-pro"
    )
    assert "pip install" not in told("combiner", "twin"), "only what is in the index is suggested"


def test_no_third_party_loads_none_of_them_and_an_allow_list_only_what_it_names(
    crowded: Environment, strangers: ModuleType
) -> None:
    names = {stranger.name for stranger in strangers.ALL}
    listed = [row for row in rows(crowded, "--no-third-party") if row["seam"] != "tracker"]  # they need more packages
    states = {row["provider"]: row["state"] for row in listed}
    assert states.pop("hft-core") == "ok"
    assert states == dict.fromkeys(names, "blocked")
    states = {row["provider"]: row["state"] for row in rows(crowded, HFT_ALLOW="hft-healthy-00,HFT_Healthy.01")}
    assert {name for name, state in states.items() if state != "blocked"} == {
        "hft-core",
        "hft-healthy-00",
        "hft-healthy-01",
    }


def test_the_number_of_modules_grows_by_one_a_distribution(
    make_environment: Any, wheel: Path, strangers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made: Environment = make_environment(tmp_path_factory.mktemp("measured"))
    made.install(wheel)
    folder = tmp_path_factory.mktemp("wheels")
    counts = {}
    for number in (0, 10, 30):
        wheels = [stranger.wheel(folder) for stranger in strangers.healthy(number)]
        if wheels:
            made.install(*wheels)
        counts[number] = modules(made, "list-plugins")
        assert modules(made, "list-plugins", "--no-third-party") == counts[0]
    print(f"modules of hft list-plugins by the number of third-party distributions: {counts}")
    assert counts[10] - counts[0] == 10
    assert counts[30] - counts[0] == 30


def modules(environment: Environment, *arguments: str) -> int:
    done = subprocess.run(
        [environment.bin / "python", "-c", COUNT, *arguments], capture_output=True, text=True, cwd=environment.folder
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])
