"""A finished run whose plugin is missing, has changed, or has got a rival since."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue, CombinerSpec, ModelError, PluginError, hookimpl
from hft_core.predict import saved_run
from hft_core.runtime.run_folder import RunFolder

SUMMED = """
from hft_core import CombinerSpec, hookimpl
from hft_core.combiner import Combiner
from hft_core.options import Options

@hookimpl
def hft_combiners():
    return [CombinerSpec(name="mine", summary="Adds up", factory="mine:build", options="mine:Options")]

def build(options, *, tasks):
    return Combiner(tuple(tasks))
"""


class Rival:
    """A plugin module that offers a combiner of the built-in name, and one of the file's."""

    @hookimpl
    def hft_combiners(self) -> list[CombinerSpec]:
        return [CombinerSpec(name=name, summary="s", factory="no:f", options="no:O") for name in ("mine", "sum")]


@pytest.fixture(scope="module")
def place(models: Any, toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the combiner of one file, and that file."""
    folder = tmp_path_factory.mktemp("reopened")
    (folder / "mine.py").write_text(SUMMED)
    with open(folder / "topics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(toys.rows(40))
    hft_core.run(
        {
            "backbone": {"model": str(models["bert"])},
            "tasks": {"topic": {"head": "classification", "data": str(folder / "topics.csv")}},
            "stages": [{"strategy": "lora", "combiner": "mine", "max_steps": 2}],
            "precision": "fp32",
        },
        catalogue=Catalogue.discover(inline=[folder / "mine.py"]),
        output=folder / "run",
    )
    return folder


def test_the_record_has_the_distribution_of_each_plugin_and_the_digest_of_a_file(place: Path) -> None:
    record = {used["name"]: used for used in RunFolder(place / "run").plugins()}
    assert set(record) == {"hf-encoder", "classification", "lora", "mine"}
    assert {record[name]["distribution"] for name in ("hf-encoder", "classification", "lora")} == {"hft-core"}
    assert record["mine"]["distribution"] == str(place / "mine.py")
    assert len(record["mine"]["sha256"]) == 64


def test_a_run_whose_file_is_not_given_again_says_which_one(place: Path) -> None:
    with pytest.raises(PluginError) as raised:
        saved_run.open_run(place / "run", Catalogue.discover())
    assert str(raised.value).startswith(f"the run was made with combiner 'mine' of {place / 'mine.py'} (sha256 ")
    assert "give that file with --plugin" in str(raised.value)


def test_a_run_opens_with_the_file_wherever_it_is_and_says_when_it_has_changed(place: Path, tmp_path: Path) -> None:
    moved = tmp_path / "other.py"
    moved.write_text(SUMMED.replace('"mine:', '"other:'))
    (told,) = saved_run.open_run(place / "run", Catalogue.discover(inline=[moved])).warnings
    assert told.startswith(f"{place / 'run'}: made with {place / 'mine.py'} (sha256 ")
    assert "and opened with" in told
    assert told.endswith("combiner 'mine'")
    moved.write_text(SUMMED)
    again = tmp_path / "mine.py"
    again.write_text(SUMMED)
    assert saved_run.open_run(place / "run", Catalogue.discover(inline=[again])).warnings == ()


def test_a_rival_that_came_later_does_not_keep_a_run_from_opening(place: Path) -> None:
    catalogue = Catalogue.discover(inline=[place / "mine.py"])
    crowded = Catalogue([*catalogue._providers, *Catalogue.of(Rival())._providers])
    with pytest.raises(PluginError, match="'mine' is provided by"):
        crowded.get("combiner", "mine")
    assert saved_run.open_run(place / "run", crowded).warnings == ()


def test_the_command_warns_of_another_version_and_goes_on(place: Path, tmp_path: Path) -> None:
    changed = tmp_path / "mine.py"
    changed.write_text(SUMMED + "\n# changed\n")
    done = subprocess.run(
        [sys.executable, "-m", "hft_core", "predict", place / "run", "some text", "--json", "--plugin", changed],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr
    assert "and opened with" in done.stderr
    assert done.stdout.startswith("{")


def test_what_fails_after_a_change_repeats_the_change(place: Path, tmp_path: Path) -> None:
    changed = tmp_path / "mine.py"
    more = "from hft_core.options import Options as Plain\n\nclass Options(Plain):\n    rate: float\n"
    changed.write_text(SUMMED.replace("from hft_core.options import Options\n", more))
    with pytest.raises(PluginError, match=r"combiner 'mine' needs the option 'rate'; .*: made with .* and opened with"):
        saved_run.open_run(place / "run", Catalogue.discover(inline=[changed]))


def test_a_run_without_a_record_of_its_plugins_is_refused(place: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(place / "run", tmp_path / "run"))
    (folder / "results.json").write_text("{}")
    with pytest.raises(ModelError, match="does not say which plugins the run used"):
        saved_run.open_run(folder, Catalogue.discover())
