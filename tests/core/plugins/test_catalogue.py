from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hft_core import CombinerSpec, HeadSpec, PluginError, hookimpl
from hft_core.plugins.catalogue import Catalogue, Entry, State

if TYPE_CHECKING:
    from tests.core.conftest import Site

BUILT_IN = "hft-core"


def only(catalogue: Catalogue, distribution: str) -> Entry:
    """The one entry of a distribution."""
    (entry,) = (e for e in catalogue.entries if e.provider.distribution == distribution)
    return entry


def discovered(*block: str) -> Catalogue:
    return Catalogue.discover(block=(BUILT_IN, *block))


def combiner(name: str = "a", **changes: object) -> CombinerSpec:
    return CombinerSpec(name=name, summary="One line", factory="m:f", options="m:O", **changes)  # type: ignore[arg-type]


def host(*items: object) -> object:
    """A plugin object whose combiner hook returns `items`."""

    class Plugin:
        @hookimpl
        def hft_combiners(self) -> list[object]:
            return list(items)

    return Plugin()


def test_an_installed_plugin_is_listed_and_loaded_at_first_use(site: Site) -> None:
    module = site.add_combiner("hft-good", "good")
    catalogue = discovered()
    entry = catalogue.get("combiner", "good")
    assert (entry.state, entry.provider.label, entry.reason) == (State.OK, "hft-good 0.1", "")
    assert f"{module}.impl" not in sys.modules
    options = catalogue.load_options(entry)(steps=3)
    assert catalogue.load_factory(entry)(options, tasks=["t"]) == ("built", 0.5, ("t",))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('two\\nlines')", "import failed: ValueError: two lines"),
        ("import no_such_module_anywhere", "import failed: ModuleNotFoundError: No module named"),
        ("import sys; sys.exit(3)", "import failed: SystemExit: 3"),
        ("def", "import failed: SyntaxError: "),
        ("raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})", "import failed: E: (its message cannot"),
        ("x = 1", "implements no hook"),
        ("def hft_combiners(): return []", "'hft_combiners' is not marked with @hookimpl"),
        ("@hookimpl\ndef hft_combinres(): return []", "unknown hook 'hft_combinres'. Did you mean 'hft_combiners'?"),
        ("@hookimpl\ndef hft_run_start(event): ...", "unknown hook 'hft_run_start'. Did you mean 'hft_run_started'?"),
        ("@hookimpl\ndef hft_combiners(wrong): return []", "its hooks are not valid: PluginValidationError: "),
        ("@hookimpl(wrapper=True)\ndef hft_combiners(): return (yield)", "must be a plain function"),
        ("@hookimpl\nasync def hft_combiners(): return []", "must be a plain function"),
        ("@hookimpl\ndef hft_step_finished(event): yield", "must be a plain function"),
        ("@hookimpl\ndef hft_combiners(): 1 / 0", "hft_combiners failed: ZeroDivisionError: division by zero"),
        ("@hookimpl\ndef hft_combiners(): pass", "returned nothing, expected a list of CombinerSpec"),
        ("@hookimpl\ndef hft_combiners(): return 7", "returned int, expected a list of CombinerSpec"),
        ("@hookimpl\ndef hft_combiners(): return 'pcgrad'", "returned str, expected a list of CombinerSpec"),
        ("@hookimpl\ndef hft_combiners(): return [object()]", "returned a object, expected a CombinerSpec"),
        ("@hookimpl\ndef hft_combiners(): exit(0)", "hft_combiners failed: SystemExit: 0"),
    ],
)
def test_a_faulty_module_is_listed_as_broken_with_its_reason_and_disturbs_no_other(
    site: Site, code: str, reason: str
) -> None:
    site.add("hft-bad", {"hft_bad.py": f"from hft_core import hookimpl\n{code}\n"}, entries="combiners = hft_bad")
    site.add_combiner("hft-good", "good")
    catalogue = discovered()
    bad = only(catalogue, "hft-bad")
    assert bad.state is State.BROKEN
    assert reason in bad.reason
    assert "\n" not in bad.reason
    assert catalogue.get("combiner", "good").state is State.OK


def test_the_traceback_of_a_failed_import_is_kept(site: Site) -> None:
    site.add("hft-bad", {"hft_bad.py": "raise ValueError('here')"}, entries="combiners = hft_bad")
    assert "hft_bad.py" in only(discovered(), "hft-bad").traceback


def test_an_interrupt_while_a_plugin_is_imported_is_not_swallowed(site: Site) -> None:
    site.add("hft-bad", {"hft_bad.py": "raise KeyboardInterrupt"}, entries="combiners = hft_bad")
    with pytest.raises(KeyboardInterrupt):
        discovered()


def test_a_malformed_entry_points_file_is_its_own_distributions_fault_only(site: Site) -> None:
    site.add("hft-bad", {}, entries="this is not an entry point")
    site.add("hft-worse", {}, entries="combiners = not a module!")
    site.add_combiner("hft-good", "good")
    catalogue = discovered()
    assert only(catalogue, "hft-bad").state is State.BROKEN
    assert only(catalogue, "hft-worse").state is State.BROKEN
    assert catalogue.get("combiner", "good").state is State.OK


def test_a_distribution_without_metadata_is_still_listed(site: Site) -> None:
    site.add("hft-bad", {"hft_bad.py": "raise ValueError"}, entries="combiners = hft_bad")
    (site.folder / "hft_bad-0.1.dist-info" / "METADATA").unlink()
    assert only(discovered(), "unknown").name == "combiners"


def test_two_distributions_may_use_the_same_entry_point_name(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    site.add_combiner("hft-b", "b")
    assert [e.name for e in discovered().seam("combiner")] == ["a", "b"]


def test_a_bad_item_hides_none_of_its_neighbours() -> None:
    wrong = HeadSpec(name="wrong", summary="s", factory="m:f", options="m:O")
    catalogue = Catalogue.of(host(combiner("a"), wrong, 7, combiner("b")))
    states = {e.name: e.state for e in catalogue.seam("combiner")}
    assert states == {"a": State.OK, "b": State.OK, "wrong": State.BROKEN, "Plugin": State.BROKEN}
    with pytest.raises(PluginError, match="returned a HeadSpec, expected a CombinerSpec"):
        catalogue.get("combiner", "wrong")


def test_a_generator_hook_keeps_what_it_gave_before_it_failed() -> None:
    class Plugin:
        @hookimpl
        def hft_combiners(self):  # type: ignore[no-untyped-def]
            yield combiner("a")
            raise ValueError("late")

    catalogue = Catalogue.of(Plugin())
    assert catalogue.get("combiner", "a").state is State.OK
    assert [e.reason for e in catalogue.entries if e.state is State.BROKEN] == [
        "hft_combiners failed: ValueError: late"
    ]


@pytest.mark.parametrize("api", [0, 99])
def test_another_hook_api_is_incompatible(api: int) -> None:
    catalogue = Catalogue.of(host(combiner(api=api)))
    assert catalogue.entries[0].state is State.INCOMPATIBLE
    with pytest.raises(PluginError, match=f"incompatible: written for hook API {api}, and this hft-core supports 1"):
        catalogue.get("combiner", "a")


@pytest.mark.parametrize(
    ("requires", "status", "reason"),
    [
        (("pluggy>=1",), "ok", ""),
        (("no-such-dist ; python_version < '3'",), "ok", ""),
        (
            ("no-such-dist>=2",),
            "needs no-such-dist",
            "no-such-dist is not installed; run: pip install 'no-such-dist>=2'",
        ),
        (("pluggy>=999",), "needs pluggy", "is installed, pluggy>=999 is needed; run: pip install 'pluggy>=999'"),
        (("no-a", "no-b"), "needs no-a no-b", "run: pip install 'no-a' 'no-b'"),
        (("not a requirement !",), "broken", "is not a requirement as pip writes it"),
        ((7,), "broken", "7 is not a requirement"),
    ],
)
def test_requirements_are_checked_when_listed(requires: object, status: str, reason: str) -> None:
    (entry,) = Catalogue.of(host(combiner(requires=requires))).entries
    assert entry.status == status
    assert reason in entry.reason


def test_a_missing_part_of_an_extra_is_named(site: Site) -> None:
    site.add("has-extra", {})
    metadata = site.folder / "has_extra-0.1.dist-info" / "METADATA"
    metadata.write_text(
        metadata.read_text() + "Provides-Extra: solver\nRequires-Dist: no-such-dist>=1; extra == 'solver'\n"
        "Requires-Dist: no-other-dist; extra == 'docs'\n"
    )
    (entry,) = Catalogue.of(host(combiner(requires=("has-extra[solver]",)))).entries
    assert entry.needs == ("no-such-dist",)
    assert entry.reason == "no-such-dist is not installed; run: pip install 'has-extra[solver]'"


def test_a_needed_package_is_named_when_the_plugin_is_used() -> None:
    catalogue = Catalogue.of(host(combiner(requires=("no-such-dist",))))
    with pytest.raises(PluginError, match="combiner 'a' of Plugin is not available: needs no-such-dist: "):
        catalogue.get("combiner", "a")


def test_a_name_taken_twice_is_a_conflict_only_when_used_and_a_distribution_picks_one(site: Site) -> None:
    site.add_combiner("hft-a", "same", version="0.1")
    site.add_combiner("Hft.B", "same", version="0.2")
    catalogue = discovered()
    assert [e.state for e in catalogue.seam("combiner")] == [State.CONFLICT, State.CONFLICT]
    expected = r"combiner 'same' is provided by hft-a 0\.1 and by Hft\.B 0\.2; write 'hft-a:same' or 'Hft\.B:same'"
    with pytest.raises(PluginError, match=expected):
        catalogue.get("combiner", "same")
    assert catalogue.get("combiner", "hft-a:same").provider.label == "hft-a 0.1"
    assert catalogue.get("combiner", "HFT_b:same").provider.label == "Hft.B 0.2"
    with pytest.raises(PluginError, match=r"'same' is provided by Hft\.B 0\.2 and hft-a 0\.1"):
        catalogue.get("combiner", "hft-c:same")


def test_a_picked_plugin_of_a_conflict_still_has_its_own_state(site: Site) -> None:
    site.add_combiner("hft-a", "same")
    catalogue = Catalogue.of(host(combiner("same", requires=("no-such-dist",))), host(combiner("other")))
    with pytest.raises(PluginError, match="needs no-such-dist"):
        catalogue.get("combiner", "Plugin:same")


def test_a_name_given_twice_by_one_provider_is_a_conflict_that_no_prefix_solves() -> None:
    catalogue = Catalogue.of(host(combiner("a"), combiner("a")))
    with pytest.raises(PluginError, match="provided more than once by Plugin; block one"):
        catalogue.get("combiner", "Plugin:a")


@pytest.mark.parametrize("name", ["hft-mine", "HFT_Mine", "hft.mine"])
def test_a_blocked_distribution_is_not_imported(site: Site, name: str) -> None:
    module = site.add_combiner("hft-mine", "mine")
    entry = only(discovered(name), "hft-mine")
    assert (entry.state, entry.spec) == (State.BLOCKED, None)
    assert module not in sys.modules


def test_the_environment_blocks_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add_combiner("hft-a", "a")
    site.add_combiner("hft-b", "b")
    monkeypatch.setenv("HFT_BLOCK", f"{BUILT_IN}, hft-a,")
    catalogue = Catalogue.discover()
    assert [e.name for e in catalogue.seam("combiner")] == ["b"]
    with pytest.raises(PluginError, match=r"unknown combiner 'a'\..*Not loaded: hft-a 0.1 .*is blocked"):
        catalogue.get("combiner", "a")


def test_an_unknown_seam_gets_the_nearest_one() -> None:
    with pytest.raises(PluginError, match=r"unknown seam 'combiners'. Did you mean 'combiner'?"):
        Catalogue.of().get("combiners", "mlm")


@pytest.mark.parametrize("rival", [{"api": 99}, {"requires": ("not a requirement !",)}])
def test_what_can_never_be_used_takes_no_name(rival: dict[str, object]) -> None:
    one, other = host(combiner("a")), host(combiner("a", **rival))
    catalogue = Catalogue.of(one, other)
    assert sorted(e.state for e in catalogue.seam("combiner")) != [State.CONFLICT, State.CONFLICT]
    assert catalogue.get("combiner", "a").state is State.OK


def test_a_distribution_that_offers_the_built_in_plugins_once_more_is_in_nobodys_way(site: Site) -> None:
    code = "from hft_plugins.combiners import hft_combiners"
    site.add("hft-parrot", {"hft_parrot.py": code}, entries="combiners = hft_parrot")
    catalogue = Catalogue.discover()
    assert catalogue.get("combiner", "pcgrad").provider.distribution == BUILT_IN
    copy = catalogue.find("combiner", "hft-parrot:pcgrad")
    assert copy.state is State.CONFLICT
    assert re.fullmatch(r"is the combiner 'pcgrad' of hft-core \S+ once more", copy.reason)


def test_a_plain_name_can_be_made_to_mean_one_of_several(site: Site) -> None:
    site.add_combiner("hft-a", "same")
    site.add_combiner("hft-b", "same")
    catalogue = discovered().preferring({("combiner", "same"): "hft-b"})
    assert catalogue.get("combiner", "same").provider.distribution == "hft-b"
    assert catalogue.get("combiner", "hft-a:same").provider.distribution == "hft-a"
    gone = discovered().preferring({("combiner", "same"): "hft-gone"})
    with pytest.raises(PluginError, match="write 'hft-a:same' or 'hft-b:same'"):
        gone.get("combiner", "same")


class Unchecked(CombinerSpec):
    """A spec that overrides the checks of its class."""

    def __post_init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "../../up"}, "plugin name '../../up' is not of the form"),
        ({"name": "a\nb"}, "is not of the form"),
        ({"name": 7}, "its name is a int, expected str"),
        ({"summary": "two\nlines"}, "summary must be one line of text"),
        ({"factory": "rm -rf"}, "must be an import string like"),
        ({"api": "1"}, "its api is a str, expected int"),
        ({"requires": "pluggy"}, "its requires is a str, expected tuple[str, ...]"),
        ({"source": None}, "its source is a NoneType, expected str"),
        ({"per_task_gradients": "yes"}, "its per_task_gradients is a str, expected bool"),
        ({"example": [1]}, "its example is a list, expected Mapping"),
    ],
)
def test_a_spec_with_a_field_of_the_wrong_type_or_form_is_broken(fields: dict[str, object], reason: str) -> None:
    given: dict[str, object] = {"name": "a", "summary": "s", "factory": "m:f", "options": "m:O", **fields}
    (entry,) = Catalogue.of(host(Unchecked(**given))).entries  # type: ignore[arg-type]
    assert (entry.state, entry.spec) == (State.BROKEN, None)
    assert reason in entry.reason


def test_a_slow_module_is_told_of_with_its_time_and_what_it_imported(site: Site) -> None:
    code = "import time, sys\nsys.modules.setdefault('jax', sys)\ntime.sleep(0.3)\n"
    site.add_combiner("hft-good", "good")
    module = site.add_combiner("hft-slow", "slow")
    path = site.folder / module / "__init__.py"
    path.write_text(code + path.read_text())
    catalogue = discovered()
    (warning,) = catalogue.get("combiner", "slow").warnings
    assert re.fullmatch(r"slow: importing its entry module took 0\.\d s \(jax\), which every hft command .*", warning)
    assert catalogue.get("combiner", "good").warnings == ()
    del sys.modules["jax"]


def test_a_broken_plugin_that_wants_another_core_is_incompatible(site: Site) -> None:
    site.add("hft-new", {"hft_new.py": "from hft_core import NoSuchSpec"}, entries="combiners = hft_new")
    metadata = site.folder / "hft_new-0.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: hft-core[all]>=99\nRequires-Dist: no-such-dist\n")
    entry = only(discovered(), "hft-new")
    assert entry.state is State.INCOMPATIBLE
    assert re.match(r"hft-core \S+ is installed, hft-core>=99 is needed \(import failed: ImportError", entry.reason)


def test_an_empty_catalogue_says_how_to_install_the_built_ins() -> None:
    with pytest.raises(PluginError, match=r"unknown strategy 'lora': no plugins .* run 'pip install -e \.'"):
        Catalogue.of().get("strategy", "lora")


def test_given_modules_only_means_nothing_of_the_environment(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    assert [e.name for e in Catalogue.of(host(combiner("mine"))).entries] == ["mine"]


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        ("import no_such_module_anywhere", "cannot load its factory 'hft_a.impl:build': ModuleNotFoundError"),
        ("x = 1", "cannot load its factory 'hft_a.impl:build': AttributeError"),
        ("raise SystemExit(1)", "cannot load its factory 'hft_a.impl:build': SystemExit: 1"),
        ("build = 7", "its factory 'hft_a.impl:build' is not callable"),
    ],
)
def test_an_implementation_that_cannot_be_loaded_names_plugin_and_distribution(
    site: Site, implementation: str, message: str
) -> None:
    site.add_combiner("hft-a", "a")
    (site.folder / "hft_a" / "impl.py").write_text(implementation)
    catalogue = discovered()
    with pytest.raises(PluginError, match=r"combiner 'a' of hft-a 0.1: ") as raised:
        catalogue.load_factory(catalogue.get("combiner", "a"))
    assert message in str(raised.value)


def test_options_that_are_no_pydantic_model_are_refused(site: Site) -> None:
    site.add_combiner("hft-a", "a")
    (site.folder / "hft_a" / "impl.py").write_text("class Options: pass")
    catalogue = discovered()
    with pytest.raises(PluginError, match=r"its options 'hft_a.impl:Options' are not a pydantic model"):
        catalogue.load_options(catalogue.get("combiner", "a"))


def test_a_single_file_is_a_plugin_whose_strings_may_name_the_file_itself(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(site.combiner("mine", "mine") + site.implementation)
    catalogue = Catalogue.discover(block=[BUILT_IN], inline=[file, str(file)])
    entry = catalogue.get("combiner", "mine")
    assert entry.provider.label == str(file)
    assert entry.provider.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert catalogue.load_factory(entry)(SimpleNamespace(strength=1), tasks=[]) == ("built", 1, ())
    assert catalogue.get("combiner", "mine.py:mine") == entry
    assert "mine" not in sys.modules


def test_a_changed_file_is_loaded_anew(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for name in ("one", "two"):
        file.write_text(site.combiner(name, "mine"))
        assert [e.name for e in Catalogue.discover(block=[BUILT_IN], inline=[file]).seam("combiner")] == [name]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("gone.py", None, "plugin file '{path}': cannot be read: No such file"),
        ("text.txt", "", "plugin file '{path}': expected a .py file"),
        ("raises.py", "raise ValueError('x')", "plugin file '{path}': import failed: ValueError: x"),
        ("exits.py", "exit(0)", "plugin file '{path}': import failed: SystemExit: 0"),
        ("empty.py", "", "plugin file '{path}': implements no hook"),
        ("binary.py", "\0", "plugin file '{path}': import failed: "),
        (
            "typo.py",
            "from hft_core import hookimpl\n@hookimpl\ndef hft_head(): ...",
            "'{path}': unknown hook 'hft_head'",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_at_once(
    tmp_path: Path, name: str, code: str | None, message: str
) -> None:
    file = tmp_path / name
    if code is not None:
        file.write_text(code)
    with pytest.raises(PluginError) as raised:
        Catalogue.discover(block=[BUILT_IN], inline=[file])
    assert message.format(path=file) in str(raised.value)


def test_observers_are_the_modules_with_sound_lifecycle_hooks(site: Site) -> None:
    hook = "from hft_core import hookimpl\n@hookimpl\ndef {}(event): ...\n"
    site.add("hft-b", {"hft_b.py": hook.format("hft_run_started")}, entries="tracker = hft_b")
    site.add("hft-a", {"hft_a.py": hook.format("hft_step_finished")}, entries="tracker = hft_a")
    bad = hook.format("hft_run_started") + hook.format("hft_run_strated")
    site.add("hft-bad", {"hft_bad.py": bad}, entries="tracker = hft_bad")
    site.add_combiner("hft-c", "c")
    catalogue = discovered()
    assert [label for label, _ in catalogue.observers] == ["hft-a 0.1", "hft-b 0.1"]
    assert catalogue.observers[0][1] is sys.modules["hft_a"]


def test_importing_the_package_loads_pluggy_and_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import hft_core; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hft_core", "pluggy"]


def test_the_package_gives_its_heavier_names_when_they_are_asked_for() -> None:
    import hft_core
    from hft_core.recipe.schema import Recipe

    assert hft_core.Recipe is Recipe
    assert hft_core.Catalogue is Catalogue
    assert hft_core.__version__[0].isdigit()
    assert set(hft_core.__all__) <= set(dir(hft_core))
    with pytest.raises(AttributeError, match="has no attribute 'Recip'"):
        hft_core.Recip  # noqa: B018
