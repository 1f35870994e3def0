from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hft_core.plugins.catalogue import Catalogue, Entry, State
from hft_core.specs import BackboneSpec, load
from hft_plugins import backbones, combiners, heads, launchers, recipes, strategies, trackers

BUILT_IN = Catalogue.of(backbones, heads, strategies, combiners, recipes, trackers, launchers).entries
ARGUMENTS: dict[str, dict[str, Any]] = {
    "backbone": {"trust_remote_code": False},
    "head": {"task": "t"},
    "strategy": {},
    "combiner": {"tasks": ("a", "b")},
}


def of(*seams: str) -> Any:
    return pytest.mark.parametrize(
        "entry", [e for e in BUILT_IN if e.seam in seams], ids=lambda e: f"{e.seam}-{e.name}"
    )


def test_every_seam_has_built_in_plugins_and_all_of_them_can_be_used() -> None:
    assert {entry.seam for entry in BUILT_IN} == {*ARGUMENTS, "recipe", "tracker", "launcher"}
    assert {entry.state for entry in BUILT_IN if entry.seam != "tracker"} == {State.OK}
    assert {entry.state for entry in BUILT_IN} <= {State.OK, State.NEEDS}  # a tracker needs its program's package


def test_installed_plugins_hold_the_built_in_ones() -> None:
    installed = {(entry.seam, entry.name) for entry in Catalogue.discover().entries if entry.state is State.OK}
    assert {(entry.seam, entry.name) for entry in BUILT_IN if entry.state is State.OK} <= installed


@of("backbone", "head", "strategy", "combiner", "recipe", "tracker", "launcher")
def test_a_spec_names_what_can_be_imported_says_its_source_and_describes_its_options(entry: Entry) -> None:
    assert entry.spec is not None
    if entry.state is State.NEEDS:
        pytest.skip(entry.reason)
    assert callable(load(entry.spec.factory))
    options = load(entry.spec.options)
    assert issubclass(options, BaseModel)
    # `peft` takes any field of the method, and checks it itself.
    assert options.model_config.get("extra") == ("allow" if entry.name == "peft" else "forbid")
    assert entry.spec.summary
    assert entry.spec.source
    for name, field in options.model_fields.items():
        assert field.description, name
    if isinstance(entry.spec, BackboneSpec):
        assert load(entry.spec.opens)("/nowhere") is False


@of("head", "strategy", "combiner")
def test_the_example_is_enough_to_build_the_plugin(entry: Entry) -> None:
    assert entry.spec is not None
    options = load(entry.spec.options).model_validate(dict(entry.spec.example))
    built = load(entry.spec.factory)(options, **ARGUMENTS[entry.seam])
    for fact, attribute in (("per_task_gradients", "per_task_gradients"), ("needs_labels", "supervised")):
        if hasattr(entry.spec, fact):
            assert getattr(built, attribute) == getattr(entry.spec, fact)


@of("backbone")
def test_the_example_is_enough_to_open_a_model(entry: Entry, models: Any) -> None:
    assert entry.spec is not None
    path: Path = models[{"hf-decoder": "llama", "hf-seq2seq": "t5"}.get(entry.name, "bert")]
    assert entry.spec.example == {"model": "PATH"}
    options = load(entry.spec.options).model_validate({"model": str(path)})
    built = load(entry.spec.factory)(options, **ARGUMENTS["backbone"])
    assert built.hidden_size == 32
