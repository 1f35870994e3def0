"""`hft export`: exported files answer as the run by other libraries alone, and the verdict is about those files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hft_core
from hft_core import Catalogue, cli
from hft_core.export import onnx_folder, onnx_graph
from hft_core.export.plain_folders import PlainFolders
from hft_core.predict import predict
from hft_plugins.heads.parts.example_rows import token_classification

EXAMPLES = {
    "A first text.": "the striker saw the referee again",
    "A second text.": "the bank called the broker",
    "A second and somewhat longer text.": "the bank called the broker",
    "What goes with it.": "the champion described the runner",
    "What goes with the first.": "the champion described the runner",
    "What goes with the second.": "the bank",
}
"""Texts of the READMEs, and what is asked in their place."""
STAGE = {"head_warmup_steps": 0, "eval_strategy": "no"}
WORDS = ["A", "text", "in", "words"]
NEAR = 2e-5
FOR_ONNX = "topic,score,kinds,pair,ner,near"
FOR_HF = "topic,score,kinds,pair,ner,near,language"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of all kinds of heads, whose rows are in files."""
    place = tmp_path_factory.mktemp("export")
    rows = toys.rows(200)
    for row in rows:
        row["kinds"] = [row["label"], *(["again"] if "again" in row["text"] else [])]
    for name, content in (("rows", rows), ("tags", token_classification(200, 0))):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    data = str(place / "rows.jsonl")
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {
            "topic": {"head": "classification", "calibrate": True, "data": data},
            "score": {"head": "regression", "label": "score", "data": data},
            "kinds": {"head": "multilabel", "label": "kinds", "tune_threshold": "f1_micro", "data": data},
            "pair": {
                "head": "classification",
                "text": ["text", "other"],
                "label": "fits",
                "loss": "bce",
                "tune_threshold": "f1_macro",
                "pooling": "mean",
                "data": data,
            },
            "ner": {"head": "token-classification", "data": str(place / "tags.jsonl")},
            "near": {"head": "contrastive", "text": ["text", "other"], "projection_dim": 8, "data": data},
            "attended": {"head": "contrastive", "text": ["text", "other"], "pooling": "attention", "data": data},
            "language": {"head": "mlm", "data": data},
        },
        "stages": [
            {"name": "learn", "strategy": "full", "max_steps": 120, "learning_rate": 0.003, **STAGE},
            {"name": "adapt", "strategy": {"type": "lora", "r": 4}, "max_steps": 8, "learning_rate": 0.01, **STAGE},
        ],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def graph(run: Path) -> Path:
    """The run as one graph; tracing takes most of an export's time."""
    pytest.importorskip("onnxruntime")
    folder = run.parent / "graph"
    assert cli.main(["export", str(run), "--to", "onnx", "--tasks", FOR_ONNX, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def traced(graph: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the graph that was traced before."""
    monkeypatch.setattr(onnx_graph, "write", lambda _, path: shutil.copy(graph / "model.onnx", path))
    return graph


def verdict(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return found


def executed(folder: Path) -> dict[str, dict[str, Any]]:
    """What the lines of a README leave behind, by task, with other texts in place of its examples."""
    left: dict[str, Any] = {}
    found = {}
    text = (folder / "README.md").read_text()
    for heading, code in re.findall(r"^(?:## `(\S+)`\n\n)?```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for example, other in EXAMPLES.items():
            code = code.replace(f'"{example}"', f'"{other}"')
        code = code.replace('Path(".")', f"Path({str(folder)!r})").replace(json.dumps(WORDS), repr(TAGGED))
        exec(compile(code, "README.md", "exec"), left)  # noqa: S102 (they are what is tested)
        if heading:
            found[heading] = dict(left)
    return found


TAGGED = ["the", "striker", "saw", "the", "referee", "again"]


def compare(found: dict[str, dict[str, Any]], run: Path) -> None:
    """The README's answers are those of `hft predict`."""
    saved = hft_core.open_run(run, Catalogue.discover())
    for task, left in found.items():
        if task == "ner":
            (wanted,) = predict(saved, task, [{"words": TAGGED}])
            assert list(left["labels"].values()) == wanted["value"]
            continue
        if task == "language":
            continue
        rows = [
            {"text": one, "other": other}
            for one, other in zip(left["texts"], left.get("others", left["texts"]), strict=True)
        ]
        if task == "pair" and isinstance(left["texts"][0], tuple):
            rows = [{"text": one, "other": other} for one, other in left["texts"]]
        for place, wanted in enumerate(predict(saved, task, rows)):
            if task in ("score", "near"):
                assert left["values"][place] == pytest.approx(wanted["value"], abs=NEAR)
                continue
            assert left["labels"][place] == wanted["value" if task == "kinds" else "label"]
            assert left["probabilities"][place].tolist() == pytest.approx(
                list(wanted["probabilities"].values()), abs=NEAR
            )


def test_a_graph_and_its_readme_answer_as_the_run_without_hft(run: Path, graph: Path) -> None:
    found = executed(graph)
    assert ",".join(found) == FOR_ONNX
    compare(found, run)
    told = verdict(graph)
    assert told["within_tolerance"] and told["to"] == "onnx"
    for task, facts in told["tasks"].items():
        assert facts["other_answers"] == 0 and facts["largest_difference"] < NEAR
        assert facts["original"] == pytest.approx(facts["exported"], abs=1e-4), task
    assert told["tasks"]["ner"]["original"]["f1"] > 0.3, "so that an answer can be another one"
    assert {path.name for path in graph.parent.iterdir() if path.name.startswith(".graph")} == set()


def test_int8_is_judged_by_its_own_answers(run: Path, traced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "int8"
    arguments = ["export", str(run), "--to", "onnx", "--tasks", "score,ner", "--int8", "--out", str(out)]
    assert cli.main([*arguments, "--tolerance", "0"]) == 1
    told = verdict(out)
    assert told["int8"] and told["tolerance"] == 0
    assert NEAR < told["tasks"]["score"]["largest_difference"] < 0.1
    assert told["tasks"]["score"]["original"]["pearson"] == pytest.approx(
        told["tasks"]["score"]["exported"]["pearson"], abs=0.02
    )
    assert (out / "model.onnx").stat().st_size < 0.9 * (traced / "model.onnx").stat().st_size
    assert "is beyond the tolerance of 0: task '" in capsys.readouterr().err
    assert not list(out.glob("exact-*"))


def test_the_verdict_is_that_of_the_exported_graph(
    run: Path, traced: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(traced / "model.onnx")
    (weight,) = (
        part for part in model.graph.initializer if part.name.endswith("heads.ner.scorer.whole.classifier.bias")
    )
    weight.CopyFrom(
        numpy_helper.from_array(
            numpy_helper.to_array(weight)[::-1] + 3 * (-1.0) ** np.arange(weight.dims[0], dtype=np.float32), weight.name
        )
    )
    monkeypatch.setattr(onnx_graph, "write", lambda _, path: onnx.save(model, path))
    out = run.parent / "damaged-graph"
    assert cli.main(["export", str(run), "--to", "onnx", "--tasks", "topic,ner", "--out", str(out)]) == 1
    assert verdict(out)["tasks"]["topic"]["within_tolerance"]
    assert "task 'ner': f1" in capsys.readouterr().err


def test_folders_and_their_readme_answer_as_the_run_without_hft(run: Path) -> None:
    out = run.parent / "folders"
    assert cli.main(["export", str(run), "--to", "hf", "--tasks", FOR_HF, "--out", str(out)]) == 0
    found = executed(out)
    assert ",".join(found) == FOR_HF
    compare(found, run)
    assert not list(out.rglob("adapter_*")) and not (out / "trunk").exists()
    for task, facts in verdict(out)["tasks"].items():
        assert facts["other_answers"] == 0, task
        assert facts["original"] == pytest.approx(facts["exported"], rel=1e-4), task


def test_folders_of_sentence_transformers_and_their_readme_answer_as_the_run(run: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    out = run.parent / "sentences"
    assert (
        cli.main(["export", str(run), "--to", "sentence-transformers", "--tasks", "near,pair", "--out", str(out)]) == 0
    )
    told = verdict(out)["tasks"]
    assert told["near"]["largest_difference"] < 1e-5 and told["near"]["other_answers"] == 0
    assert told["near"]["original"]["mrr"] == pytest.approx(told["near"]["exported"]["mrr"], abs=1e-6)
    saved = hft_core.open_run(run, Catalogue.discover())
    found = executed(out)
    asked = [{"text": one, "other": other} for one, other in found["pair"]["texts"]]
    for values, wanted in zip(found["pair"]["values"], predict(saved, "pair", asked), strict=True):
        assert torch.tensor(values).softmax(0).tolist() == pytest.approx([*wanted["probabilities"].values()], abs=NEAR)
    texts = [*found["near"]["texts"], "again " * 200]
    wanted = [answer["value"] for answer in predict(saved, "near", [{"text": text} for text in texts])]
    for folder in (out / "near", run / "model" / "near"):  # merged, and the run's own adapter
        embeddings = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
        assert embeddings == pytest.approx(np.array(wanted), abs=1e-5), folder


def test_the_verdict_is_that_of_the_exported_folders(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = PlainFolders.write

    def damaged(self: Any, saved: Any, tasks: Any, folder: Path) -> None:
        written(self, saved, tasks, folder)
        file = folder / "language" / "trunk.safetensors"
        tensors = {name: -tensor if "layer.1" in name else tensor for name, tensor in load_file(file).items()}
        file.unlink()  # the other tasks have a link to it
        save_file(tensors, file, metadata={"format": "pt"})

    monkeypatch.setattr(PlainFolders, "write", damaged)
    out = run.parent / "damaged-folders"
    assert cli.main(["export", str(run), "--to", "hf", "--tasks", "score,language", "--out", str(out)]) == 1
    assert verdict(out)["tasks"]["score"]["within_tolerance"]
    assert "task 'language': perplexity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "coreml"], "--to coreml: unknown format. Known: gguf, hf, onnx, sentence-transformers."),
        (["--to", "hf", "--int8"], "--int8 goes with --to onnx"),
        (["--to", "hf", "--tasks", "topics"], "the run has no task 'topics'. Did you mean 'topic'?"),
        (["--to", "hf", "--tasks", "topic,attended"], "task 'attended': neither transformers nor sentence-"),
        (
            ["--to", "sentence-transformers", "--tasks", "near,attended"],
            "what its head 'contrastive' does: leave it out",
        ),
        (
            ["--to", "sentence-transformers", "--tasks", "near,ner"],
            "task 'ner': its head 'token-classification' is a module",
        ),
        (["--to", "onnx"], "task 'language': its head 'mlm' has no outputs that a graph could compute"),
        (["--to", "onnx", "--tolerance", "-1"], "--tolerance"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run.parent / "refused"
    assert cli.main(["export", str(run), "--out", str(out), *arguments]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and message in told[0]
    assert not out.exists()
    assert not list(run.parent.glob(".refused*"))


def test_a_folder_that_exists_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in run.iterdir())
    assert cli.main(["export", str(run), "--to", "hf", "--out", str(run)]) == 2
    assert "is there already: expected the name of a new folder" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


def test_missing_packages_are_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_folder, "NEEDED", ("onnx", "not_there_at_all"))
    assert cli.main(["export", str(run), "--to", "onnx", "--tasks", "topic", "--out", str(run.parent / "none")]) == 2
    assert "--to onnx needs not_there_at_all: pip install 'hft-core[onnx]'" in capsys.readouterr().err


def test_a_quantized_trunk_is_not_exported_as_another_one(
    models: Any, toys: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "backbone": {"model": str(models["bert"]), "quantization": "int8"},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [{"strategy": "lora", "max_steps": 1, **STAGE}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={"topic": toys.rows(40)}, output=tmp_path / "run")
    assert cli.main(["export", str(tmp_path / "run"), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "the run's trunk is in int8 (backbone.quantization)" in capsys.readouterr().err


def test_strategies_that_cannot_be_merged(
    models: Any, toys: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No class of transformers has their parts; hidden states that depend on the task are not one pass."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(40)))
    task = {"head": "classification", "data": str(tmp_path / "rows.jsonl")}
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": task, "other": task},
        "stages": [{"strategy": {"type": "task-lora", "r": 2}, "max_steps": 2, **STAGE}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=tmp_path / "run")
    export = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--to"]
    assert cli.main([*export, "hf"]) == 2
    assert "strategy 'task-lora' adds parts that cannot be merged into the trunk" in capsys.readouterr().err
    assert cli.main([*export, "onnx"]) == 2
    assert "a graph has one pass for all: export them one by one (--tasks topic)" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").unlink()
    assert cli.main([*export, "onnx", "--tasks", "topic"]) == 2
    assert "rows.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
