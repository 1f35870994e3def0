"""Damage to a finished run, told file by file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hft_core import ModelError, check_run
from hft_core.runtime.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The files of a finished run, of which the model is one tensor."""
    folder = RunFolder(tmp_path / "run")
    folder.open(resume=False)
    folder.write_recipe("seed: 0\n")
    folder.log.write_text('{"event": "run_started"}\n')
    (folder.model / "topic").mkdir(parents=True)
    save_file({"weight": torch.ones(4, 4)}, folder.model / "topic" / "head.safetensors")
    (folder.model / "topic" / "task.json").write_text('{"facts": {}}')
    folder.checkpoints.mkdir()
    folder.write_results("# A run\n", {"final": {}})
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def test_a_run_as_it_was_written_is_sound(run: RunFolder) -> None:
    with run.log.open("a") as log:
        log.write('{"event": "run_finished"}\n')
    found = check_run(run.path)
    assert (found.problems, found.finished, found.files) == ((), True, 6)
    assert not run.checkpoints.exists()


DAMAGE: dict[str, tuple[Callable[[RunFolder], object], str, str]] = {
    "a bit of the weights": (
        lambda run: flip(run.model / "topic" / "head.safetensors"),
        "model/topic/head.safetensors",
        "is not as it was written (other content of the same size)",
    ),
    "weights cut short": (
        lambda run: (run.model / "topic" / "head.safetensors").write_bytes(b""),
        "model/topic/head.safetensors",
        "has 0 bytes, ",
    ),
    "a file is gone": (lambda run: (run.model / "topic" / "task.json").unlink(), "model/topic/task.json", "is missing"),
    "a link": (
        lambda run: ((run.path / "README.md").unlink(), (run.path / "README.md").symlink_to("recipe.yaml")),
        "README.md",
        "is not a regular file",
    ),
    "one more file in the model": (
        lambda run: (run.model / "topic" / "pytorch_model.bin").write_bytes(b"x"),
        "model/topic/pytorch_model.bin",
        "was not written by the run",
    ),
    "results that are no JSON": (
        lambda run: run.results.write_text(run.results.read_text().replace("{", "[", 1)),
        "results.json",
        "is not as it was written (is not valid json: ",
    ),
    "no results": (lambda run: run.results.unlink(), "results.json", "is missing"),
    "the log's beginning": (lambda run: run.log.write_text("{}\n"), "log.jsonl", "has 3 bytes of "),
    "no manifest": (lambda run: run.manifest.unlink(), "manifest.json", "is missing"),
    "a manifest of another shape": (
        lambda run: run.manifest.write_text('{"files": [1]}'),
        "manifest.json",
        "cannot be read: ",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_named(case: str, run: RunFolder) -> None:
    damage, file, problem = DAMAGE[case]
    damage(run)
    (found,) = check_run(run.path).problems
    assert found.file == file
    assert found.problem.startswith(problem)


def test_files_are_read_where_there_is_no_manifest(run: RunFolder) -> None:
    run.manifest.unlink()
    path = run.model / "topic" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    problems = {each.file: each.problem for each in check_run(run.path).problems}
    assert problems["model/topic/head.safetensors"].startswith("is not valid safetensors: its tensors take 64 bytes")


def test_a_manifest_that_leads_out_of_the_folder_is_not_followed(run: RunFolder) -> None:
    listed = json.loads(run.manifest.read_text())
    listed["files"]["../outside"] = {"size": 0, "sha256": ""}
    run.manifest.write_text(json.dumps(listed))
    assert [each.problem for each in check_run(run.path).problems] == ["is outside of the folder"]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no run: it has no recipe\.yaml"):
        check_run(tmp_path)
