from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hft_core.cli import main
from hft_core.cli.invocation import split
from hft_core.cli.terminal import plain
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from tests.core.conftest import Site

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "yaml", "pydantic", "rich.console")
MODULE_BUDGET = {"list-plugins": 300, "--help": 300, "--version": 280}
"""Modules that a light command may load (measured: 262, 281, 224)."""

HOSTILE = {
    "hft-raises": "raise ValueError('boom')",
    "hft-imports": "import no_such_module_anywhere",
    "hft-typo": "from hft_core import hookimpl\n@hookimpl\ndef hft_combinres(): return []",
    "hft-exits": "import sys; sys.exit(0)",
    "hft-object": "from hft_core import hookimpl\n@hookimpl\ndef hft_combiners(): return [object()]",
    "hft-prints": "print('noise on standard output'); raise SystemExit",
}
SPEC = """
from hft_core import CombinerSpec, hookimpl
@hookimpl
def hft_combiners():
    return [CombinerSpec(name="{name}", summary={summary!r}, factory="m:f", options="m:O", api={api},
                         requires={requires})]
"""


def add_spec(
    site: Site, distribution: str, name: str, *, summary: str = "s", api: int = 1, requires: tuple[str, ...] = ()
) -> None:
    module = distribution.replace("-", "_")
    code = SPEC.format(name=name, summary=summary, api=api, requires=requires)
    site.add(distribution, {f"{module}.py": code}, entries=f"combiners = {module}")


@pytest.fixture
def hostile(site: Site) -> Site:
    """One good distribution among all kinds of bad ones."""
    for distribution, code in HOSTILE.items():
        module = distribution.replace("-", "_")
        site.add(distribution, {f"{module}.py": code}, entries=f"combiners = {module}")
    add_spec(site, "hft-future", "future", api=99)
    add_spec(site, "hft-needs", "needy", requires=("no-such-dist>=2",))
    add_spec(site, "hft-one", "twice")
    add_spec(site, "hft-two", "twice")
    site.add("hft-blocked", {"hft_blocked.py": "open('imported', 'w')"}, entries="combiners = hft_blocked")
    site.add_combiner("hft-good", "good")
    return site


def test_every_bad_distribution_is_listed_in_its_state_and_the_good_one_is_usable(hostile: Site) -> None:
    rows = hostile.listed("--block", "hft-blocked")
    states = {row["provider"]: row["state"] for row in rows if row["provider"] != "hft-core"}
    assert states == {
        **dict.fromkeys(HOSTILE, "broken"),
        "hft-future": "incompatible",
        "hft-needs": "needs no-such-dist",
        "hft-one": "conflict",
        "hft-two": "conflict",
        "hft-blocked": "blocked",
        "hft-good": "ok",
    }
    assert all(row["reason"] for row in rows if row["state"] != "ok")
    assert not (hostile.folder / "imported").exists()
    described = hostile.hft("describe", "combiner", "good", "--block=hft-blocked")
    assert described.returncode == 0, described.stderr


def test_a_pipe_gets_whole_names_and_all_reasons(hostile: Site) -> None:
    add_spec(hostile, "hft-a-distribution-with-quite-a-long-name-indeed", "n" * 64, summary="word " * 60)
    done = hostile.hft("list-plugins")
    assert done.returncode == 0, done.stderr
    assert "n" * 64 in done.stdout
    assert "hft-a-distribution-with-quite-a-long-name-indeed" in done.stdout
    assert "hft_raises" not in done.stdout, "the traceback is shown with --verbose only"
    assert "combiners (hft-raises 0.1) is broken: import failed: ValueError: boom" in done.stdout
    assert "write 'hft-one:twice' or 'hft-two:twice'" in done.stdout
    assert "hft_raises.py" in hostile.hft("list-plugins", "--verbose").stdout


def test_json_is_all_that_standard_output_holds(hostile: Site) -> None:
    done = hostile.hft("list-plugins", "--json")
    good = next(row for row in json.loads(done.stdout) if row["name"] == "good")
    assert "noise" in done.stderr
    assert good == {
        "seam": "combiner",
        "name": "good",
        "summary": "A combiner",
        "provider": "hft-good",
        "version": "0.1",
        "state": "ok",
        "reason": "",
        "capabilities": {"per_task_gradients": False, "non_conflicting": False},
        "source": "",
        "warnings": [],
    }


def test_a_seam_filters_the_list_and_an_unknown_one_is_an_error(site: Site) -> None:
    site.add_combiner("hft-good", "good")
    assert {row["name"] for row in site.listed("--seam", "combiner", HFT_BLOCK="hft-core")} >= {"good"}
    assert "good" not in {row["name"] for row in site.listed("--seam", "head", HFT_BLOCK="hft-core")}
    done = site.hft("list-plugins", "--seam", "combiners")
    assert (done.returncode, done.stderr) == (2, "error: unknown seam 'combiners'. Did you mean 'combiner'?\n")


def test_filters_are_joined_by_and(site: Site) -> None:
    site.add_combiner("hft-good", "good")
    site.add("hft-bad", {"hft_bad.py": "raise ValueError('boom')"}, entries="combiners = hft_bad")
    add_spec(site, "hft-needs", "needy", requires=("no-such-dist>=2",), summary="Wants something")

    def names(*arguments: str) -> set[str]:
        return {row["name"] for row in site.listed("--block", "hft-core", *arguments)}

    assert names("--provider", "HFT_Good") == {"good"}
    assert names("--state", "needs") == {"needy"}
    assert names("--state", "broken", "--provider", "hft-bad") == {"combiners"}
    assert names("--search", "WANTS") == {"needy"}
    assert names("--search", "boom") == {"combiners"}, "a reason is searched too"
    assert names("--search", "per_task", "--state", "ok") == set()
    assert names("--seam", "combiner", "--state", "ok") == {"good"}
    assert "No plugin matches." in site.hft("list-plugins", "--search", "no such text").stdout
    wrong = site.hft("list-plugins", "--provider", "hft-goo")
    assert (wrong.returncode, wrong.stderr) == (2, "error: 'hft-goo' has no plugins here. Did you mean 'hft-good'?\n")
    wrong = site.hft("list-plugins", "--state", "need")
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown state 'need'. Did you mean 'needs'?\n")


def test_a_module_that_only_observes_is_listed_too(site: Site) -> None:
    hook = "from hft_core import hookimpl\n@hookimpl\ndef hft_run_started(event): ..."
    site.add("hft-watch", {"hft_watch.py": hook}, entries="tracker = hft_watch")
    (row,) = site.listed("--provider", "hft-watch")
    assert (row["seam"], row["name"], row["version"], row["state"]) == ("observer", "tracker", "0.1", "ok")
    assert "hft-watch" in {row["provider"] for row in site.listed("--seam", "observer")}


def test_no_third_party_leaves_what_comes_with_hft(site: Site) -> None:
    module = site.add_combiner("hft-good", "good")
    (site.folder / module / "__init__.py").write_text("open('imported', 'w')")
    for arguments in (("--no-third-party", "list-plugins", "--json"), ("list-plugins", "--json", "--no-third-party")):
        listed = json.loads(site.hft(*arguments).stdout)
        rows = {row["provider"]: row for row in listed if row["seam"] != "tracker"}  # those need packages of their own
        assert (rows["hft-core"]["state"], rows["hft-good"]["state"]) == ("ok", "blocked")
        assert rows["hft-good"]["reason"] == "distribution 'hft-good' is not on the allow list"
    assert not (site.folder / "imported").exists()


def test_a_name_on_a_list_that_is_none_is_a_usage_error(site: Site) -> None:
    done = site.hft("list-plugins", HFT_ALLOW="hft-good; hft-bad")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: HFT_ALLOW: 'hft-good; hft-bad' is not the name of a distribution")


def test_what_an_implementation_prints_stays_out_of_json(site: Site) -> None:
    module = site.add_combiner("hft-good", "good")
    implementation = site.folder / module / "impl.py"
    implementation.write_text(f"print('noise')\n{implementation.read_text()}")
    done = site.hft("describe", "combiner", "good", "--json")
    assert json.loads(done.stdout)["name"] == "good"
    assert "noise" in done.stderr


def test_columns_of_wide_characters_are_aligned(site: Site) -> None:
    add_spec(site, "hft-wide", "wide", summary="组合器")
    site.add_combiner("hft-good", "good")
    lines = site.hft("list-plugins", "--seam", "combiner", HFT_BLOCK="hft-core", PYTHONIOENCODING="utf-8").stdout
    wide, good = (next(line for line in lines.splitlines() if name in line) for name in ("hft-wide", "hft-good"))
    assert wide.index("hft-wide") + 3 == good.index("hft-good"), "three characters take two columns each"


def test_control_characters_and_markup_of_a_plugin_reach_no_terminal(site: Site) -> None:
    add_spec(site, "hft-evil", "evil", summary="[red]x[/red] \x1b[2J\x9b\u202e")
    table = site.hft("list-plugins").stdout
    assert "[red]x[/red] \\x1b[2J\\x9b\\u202e" in table
    output = site.hft("list-plugins", "--json").stdout
    assert not re.search("[\x1b\x9b\u202e]", output)
    assert "[red]x[/red] \x1b[2J\x9b\u202e" in {row["summary"] for row in json.loads(output)}


def test_text_that_the_terminal_cannot_encode_is_escaped(site: Site) -> None:
    add_spec(site, "hft-wide", "wide", summary="组合器")
    done = site.hft("list-plugins", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u7ec4" in done.stdout
    rows = json.loads(site.hft("list-plugins", "--json", PYTHONIOENCODING="latin-1").stdout)
    assert "组合器" in {row["summary"] for row in rows}


@pytest.mark.parametrize(
    "arguments", [["list-plugins"], ["list-plugins", "--json", "--verbose"], ["--help"], ["--version"]]
)
def test_a_light_command_stays_light(site: Site, arguments: list[str]) -> None:
    site.add_combiner("hft-good", "good")
    code = (
        "import sys, json; from hft_core.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
    )
    done = site.python("-c", code, *arguments)
    status, modules = json.loads(done.stderr.splitlines()[-1])
    print(f"{len(modules)} modules for hft {' '.join(arguments)}")
    assert status == 0, done.stderr
    assert not set(HEAVY) & set(modules)
    assert len(modules) <= MODULE_BUDGET[arguments[0]]


def test_describe_shows_options_with_type_default_and_meaning(site: Site) -> None:
    site.add_combiner("hft-good", "good")
    text = site.hft("describe", "combiner", "good").stdout
    assert re.search(r"strength +number > 0 +0\.5 +How strongly it pulls", text)
    assert re.search(r"steps +whole number +required +How many steps it takes", text)
    assert "combiner:\n    type: good" in text
    described = json.loads(site.hft("describe", "combiner", "hft-good:good", "--json").stdout)
    strength, steps = described["options"]
    assert strength["default"] == 0.5
    assert "default" not in steps
    assert described["example"] == "combiner:\n  type: good\n"


def test_describe_of_a_plugin_that_cannot_be_used_says_why(hostile: Site) -> None:
    needy = hostile.hft("describe", "combiner", "needy")
    assert needy.returncode == 0
    assert "needs no-such-dist" in needy.stdout
    assert "pip install 'no-such-dist>=2'" in needy.stdout
    twice = hostile.hft("describe", "combiner", "twice")
    assert twice.returncode == 2
    assert twice.stderr.splitlines()[-1].startswith(
        "error: combiner 'twice' is provided by hft-one 0.1 and by hft-two 0.1"
    )
    unknown = hostile.hft("describe", "combiner", "goood")
    assert unknown.returncode == 2
    assert "Did you mean 'good'?" in unknown.stderr


def test_env_tells_versions_and_plugin_states(hostile: Site) -> None:
    report = json.loads(hostile.hft("env", "--json", HFT_BLOCK="hft-blocked").stdout)
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    assert report["pluggy"][0].isdigit()
    assert report["plugins"]["broken"] == len(HOSTILE)
    assert report["plugins"]["conflict"] == 2
    assert {"torch", "transformers", "gpu", "cpus", "cpu_bf16"} <= set(report)


def test_a_file_is_a_plugin_for_one_call_wherever_the_option_stands(site: Site) -> None:
    (site.folder / "mine.py").write_text(SPEC.format(name="mine", summary="s", api=1, requires=()))
    for arguments in (
        ("--plugin", "mine.py", "list-plugins", "--json"),
        ("list-plugins", "--json", "--plugin=mine.py"),
    ):
        rows = json.loads(site.hft(*arguments).stdout)
        assert ("mine", "mine.py") in {(row["name"], row["provider"]) for row in rows}
    done = site.hft("list-plugins", "--plugin", "gone.py")
    assert done.returncode == 2
    assert done.stderr.startswith("error: plugin file 'gone.py': cannot be read")


def test_options_that_stand_anywhere_are_taken_out_up_to_a_double_dash() -> None:
    line = ["--debug", "run", "--block", "a,b", "x", "--plugin=p.py", "--block=c", "--", "--debug", "--block"]
    invocation, rest = split(line)
    assert (invocation.debug, invocation.block, invocation.plugins) == (True, ["a", "b", "c"], ["p.py"])
    assert rest == ["run", "x", "--", "--debug", "--block"]


@pytest.mark.parametrize("line", [["--block"], ["--plugin", "--json"], ["--block="]])
def test_an_option_without_its_value_is_a_usage_error(line: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{line[0].rstrip('=')} needs"):
        split(line)


@pytest.mark.parametrize("help_option", ["-h", "--help"])
def test_help_names_every_command_and_the_options_for_all(help_option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([help_option]) == 0
    text = capsys.readouterr().out
    assert {"list-plugins", "describe", "env"} <= set(text.split())
    assert all(option in text for option in ("--debug", "--version", "--block", "--plugin", "HFT_BLOCK"))
    assert "--install-completion" not in text


def test_an_unknown_command_is_a_usage_error_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describ"]) == 2
    assert "Did you mean 'describe'" in capsys.readouterr().err
    assert main(["list-plugins", "--jsn"]) == 2


def test_an_unexpected_error_is_one_line_and_debug_adds_the_traceback(site: Site) -> None:
    code = (
        "import sys, hft_core.cli.list_plugins as m; m.print_json = lambda v: 1 / 0; "
        "from hft_core.cli import main; sys.exit(main())"
    )
    short = site.python("-c", code, "list-plugins", "--json")
    line = "error: unexpected ZeroDivisionError: division by zero"
    assert (short.returncode, short.stderr) == (1, f"{line} (run again with --debug for the traceback)\n")
    long = site.python("-c", code, "list-plugins", "--json", "--debug")
    assert long.returncode == 1
    assert "Traceback" in long.stderr
    assert long.stderr.endswith(f"{line}\n")


def test_a_reader_that_goes_away_causes_no_noise(site: Site) -> None:
    command = f"{sys.executable} -m hft_core list-plugins --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stderr == ""


def test_an_interrupt_exits_with_130(site: Site) -> None:
    slow = "import time\nopen('started', 'w').close()\ntime.sleep(30)"
    site.add("hft-slow", {"hft_slow.py": slow}, entries="combiners = hft_slow")
    code = f"import sys; sys.path.insert(0, {str(site.folder)!r}); from hft_core.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "list-plugins"],
        cwd=site.folder,
        stderr=subprocess.PIPE,
        text=True,
        # In the background of a shell without job control, tests are started with SIGINT ignored, and pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    deadline = time.monotonic() + 20
    while not (site.folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_foreign_text_becomes_one_harmless_line() -> None:
    assert plain("a\nb\x1b[31m\x00 é 中\u200b") == "a b\\x1b[31m\\x00 é 中\\u200b"


def test_listing_plugins_itself_needs_no_pydantic(site: Site) -> None:
    site.add_combiner("hft-good", "good")
    code = (
        "import sys; from hft_core.plugins.catalogue import Catalogue; "
        "Catalogue.discover(['hft-core']).get('combiner', 'good'); "
        "import hft_core.plugins.observers; sys.exit('pydantic' in sys.modules)"
    )
    done = site.python("-c", code)
    assert done.returncode == 0, done.stderr
