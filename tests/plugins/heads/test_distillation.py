from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import entropy
from sklearn.metrics import accuracy_score
from torch.nn import functional
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core import Catalogue
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.errors import DataError, ModelError
from hft_core.head import Draw
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.heads.distillation import Distillation, Options, build

SOFT = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
NAMES = ("animals", "money", "sport")


def rows_with(toys: Any, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences with a teacher's probabilities, in a list and in a column a class."""
    made = []
    for row in toys.rows(count, seed=seed):
        soft = [0.9 if name == row["label"] else 0.05 for name in NAMES]
        made.append({**row, "probabilities": soft, **dict(zip(NAMES, soft, strict=True))})
    return made


def head_of(rows: list[dict[str, Any]], **options: Any) -> Distillation:
    head = build(Options(**{"probabilities": "probabilities", **options}), task="t")
    head.learn({name: [row[name] for row in rows] for name in rows[0]})
    return head


def attached(head: Distillation, model: Any) -> Any:
    backbone = encoder.build(EncoderOptions(model=str(model)))
    head.attach(backbone)
    head.eval()
    backbone.trunk.eval()
    return backbone


def batch_of(head: Distillation, backbone: Any, rows: list[dict[str, Any]]) -> tuple[Features, Any]:
    encoded = head.encode({name: [row[name] for row in rows] for name in rows[0]}, backbone.tokenizer, 64)
    sequences, targets = head.collate(encoded.sequences, encoded.targets, range(len(rows)), Draw(0, 0))
    inputs = backbone.tokenizer.pad({"input_ids": sequences, **encoded.extra}, return_tensors="pt")
    return Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"]), targets


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.3])
def test_the_loss_is_hintons(temperature: float, alpha: float | None, models: Any) -> None:
    rows = [
        {"text": text, "probabilities": soft, "label": label}
        for text, soft, label in zip(["the cat", "the bank", "on friday"], SOFT, "012", strict=True)
    ]
    hard = {"label": "label", "alpha": alpha} if alpha is not None else {}
    head = head_of(rows, temperature=temperature, **hard)
    backbone = attached(head, models["bert"])
    features, targets = batch_of(head, backbone, rows)
    logits = head.logits(features)
    teacher = np.array(SOFT) ** (1 / temperature)
    teacher /= teacher.sum(axis=1, keepdims=True)
    student = (logits / temperature).softmax(dim=1).detach().numpy()
    soft = temperature**2 * entropy(teacher, student, axis=1).sum()
    true = functional.cross_entropy(logits, torch.tensor([0, 1, 2]), reduction="sum").item()
    wanted = soft if alpha is None else alpha * soft + (1 - alpha) * true
    loss = head.loss(features, targets)
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    assert targets.count == 3
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_equals_cross_entropy_where_the_teacher_is_sure_and_the_temperature_is_1(models: Any) -> None:
    rows = [{"text": "the cat", "probabilities": [0, 1]}, {"text": "the bank", "probabilities": [1, 0]}]
    head = head_of(rows, temperature=1)
    features, targets = batch_of(head, attached(head, models["bert"]), rows)
    reference = functional.cross_entropy(head.logits(features), torch.tensor([1, 0]), reduction="sum")
    torch.testing.assert_close(head.loss(features, targets), reference)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_compare_the_student_with_the_teacher_and_with_the_labels(seed: int) -> None:
    random = np.random.default_rng(seed)
    student, teacher, labels = random.dirichlet([1] * 3, 20), random.dirichlet([1] * 3, 20), random.integers(3, size=20)
    rows = [{"text": "a", "probabilities": SOFT[0], "label": "0"}]
    head = head_of(rows)
    found = head.metrics(student.tolist(), [(p, None) for p in teacher.tolist()], 0.5)
    wanted = {"loss": 0.5, "kl": float(entropy(teacher, student, axis=1).mean())}
    wanted["agreement"] = accuracy_score(teacher.argmax(axis=1), student.argmax(axis=1))
    assert found == pytest.approx(wanted)
    assert head.main_metric == "agreement"
    assert head.by_label(student.tolist(), [(p, None) for p in teacher.tolist()]) == {}
    both = head_of(rows, label="label")
    found = both.metrics(student.tolist(), list(zip(teacher.tolist(), labels.tolist(), strict=True)), 0.5)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, student.argmax(axis=1)))
    assert wanted.items() <= {name: pytest.approx(value) for name, value in found.items()}.items()
    assert "f1_macro" in found
    of_labels = both.by_label(student.tolist(), list(zip(teacher.tolist(), labels.tolist(), strict=True)))
    assert sum(scores["support"] for scores in of_labels.values()) == len(labels)
    assert both.main_metric == "accuracy"


def test_classes_are_named_by_their_columns_by_the_option_or_by_number(toys: Any) -> None:
    rows = rows_with(toys, 4)
    assert head_of(rows, probabilities=NAMES).labels == list(NAMES)
    assert head_of(rows).labels == ["0", "1", "2"]
    assert head_of(rows, labels=("x", "y", "z")).labels == ["x", "y", "z"]
    with pytest.raises(ValueError, match="'labels' has 2 classes, but there are 3 probabilities"):
        head_of(rows, labels=("x", "y"))
    with pytest.raises(ValueError, match="probabilities of 1 classes"):
        head_of([{"text": "a", "probabilities": [1.0]}])


@pytest.mark.parametrize("probabilities", ["probabilities", NAMES])
def test_columns_and_a_list_say_the_same(probabilities: Any, toys: Any, models: Any) -> None:
    rows = rows_with(toys, 3)
    tokenizer = encoder.build(EncoderOptions(model=str(models["bert"]))).tokenizer
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    encoded = head_of(rows, probabilities=probabilities).encode(columns, tokenizer, 64)
    assert np.array(encoded.targets["probabilities"]) == pytest.approx(np.array(columns["probabilities"]))
    columns["probabilities"] = [";".join(map(str, cell)) for cell in columns["probabilities"]]
    divided = head_of([{"text": "a", "probabilities": "1;0;0"}], separator=";").encode(columns, tokenizer, 64)
    assert divided.targets == encoded.targets
    assert head_of(rows).encode({"text": columns["text"]}, tokenizer, 64).targets == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "either 'probabilities' .* or 'teacher'"),
        ({"probabilities": "p", "teacher": "runs/big"}, "either 'probabilities' .* or 'teacher'"),
        ({"probabilities": "p", "teacher_task": "topic"}, "'teacher', which is missing"),
        ({"teacher": "runs/big", "labels": ["a", "b"]}, "'labels' are those of the teacher"),
        ({"probabilities": "p", "alpha": 0.5}, "there is no 'label' column"),
    ],
)
def test_options_that_contradict_one_another_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Options.model_validate(options)


def run(parts: dict[str, Any], model: Any, task: dict[str, Any], steps: int = 80, **more: Any) -> Any:
    stage = {"strategy": "full", "max_steps": steps, "eval_strategy": "no", "head_warmup_steps": 0}
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {"topic": {"head": "distillation", **task}},
        "stages": [{**stage, "learning_rate": 5e-3, "per_device_train_batch_size": 16}],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"topic": parts}, **more)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"probabilities": [0.5, 0.4, 0.0]},
            r"row 3 .*'probabilities': found probabilities whose sum is 0.9, expected 1",
        ),
        (
            {"probabilities": [1.2, -0.2, 0.0]},
            r"row 3 .*'probabilities': found the probability -0.2, expected none below",
        ),
        ({"probabilities": [0.5, 0.5]}, r"row 3 .*'probabilities': found 2 probabilities, expected 3, one a class"),
        ({"probabilities": ["a", 0.5]}, r"row 3 .*'probabilities': item 1: found 'a', expected a finite number"),
        ({"label": "4"}, r"row 3 .*'label' holds the label '4', which is not one of the teacher's 3 classes"),
    ],
)
def test_a_bad_row_ends_the_run_before_training(changed: dict[str, Any], problem: str, models: Any, toys: Any) -> None:
    rows = [{**row, "label": "1"} for row in rows_with(toys, 3)]
    rows[2] |= changed
    with pytest.raises(DataError, match=problem):
        run({"train": rows}, models["bert"], {"probabilities": "probabilities", "label": "label"})


def test_it_learns_and_is_saved_as_an_ordinary_classifier(models: Any, toys: Any, tmp_path: Path) -> None:
    parts = {"train": rows_with(toys, 120), "test": rows_with(toys, 30, seed=1)}
    task = {"probabilities": list(NAMES), "label": "label"}
    scores = run(parts, models["bert"], task, output=tmp_path / "run").final["test"]["topic"]
    assert min(scores["accuracy"], scores["agreement"]) >= 0.9
    assert scores["kl"] < 0.3
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    texts = [row["text"] for row in parts["test"]]
    answers = prediction.predict(opened, "topic", prediction.rows_from_texts(opened, "topic", texts))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model/topic").eval()
    assert plain.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        told = plain(**opened.model.backbone.tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(dim=1)
    assert np.array([list(a["probabilities"].values()) for a in answers]) == pytest.approx(told.numpy(), abs=1e-5)


@pytest.fixture(scope="module")
def teacher(models: Any, toys: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with another tokenizer than the students'; its columns have names of their own."""
    folder: Path = tmp_path_factory.mktemp("teacher") / "run"
    rows = [
        {"sentence": row["text"], "second": row["other"], "about": row["label"], "score": row["score"]}
        for row in toys.rows(120)
    ]
    tasks = {
        "big": {"head": "classification", "text": "sentence", "label": "about"},
        "pair": {"head": "classification", "text": ["sentence", "second"], "label": "about"},
        "score": {"head": "regression", "text": "sentence", "label": "score"},
    }
    stage = {
        "learning_rate": 5e-3,
        "max_steps": 100,
        "eval_strategy": "no",
        "head_warmup_steps": 0,
        "tasks": list(tasks),
    }
    recipe = {
        "backbone": {"model": str(models["roberta"]), "dropout": 0.0},
        "tasks": tasks,
        "stages": [stage],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={name: {"train": rows if name == "big" else rows[:8]} for name in tasks}, output=folder)
    return folder


def test_a_finished_run_teaches_texts_without_labels(teacher: Path, models: Any, toys: Any, tmp_path: Path) -> None:
    parts = {
        split: [{"text": row["text"]} for row in toys.rows(count, seed=seed)]
        for split, count, seed in (("train", 120, 5), ("test", 30, 6))
    }
    own = tmp_path / "teacher"
    shutil.copytree(teacher, own)
    task = {"teacher": str(own), "teacher_task": "big"}
    made = run(parts, models["bert"], task, output=tmp_path / "run").final["test"]["topic"]
    assert made["agreement"] >= 0.9
    assert set(made) == {"loss", "agreement", "kl"}
    master = saved_run.open_run(own, Catalogue.discover())
    rows = loading.from_python([{"sentence": row["text"]} for row in parts["test"]], task="big")
    told = prediction.predict(master, "big", rows)
    student = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    head: Any = student.model.head("topic")
    assert head.labels == list(NAMES)
    encoded = head.encode({"text": [row["text"] for row in parts["test"]]}, student.model.backbone.tokenizer, 64)
    wanted = [list(answer["probabilities"].values()) for answer in told]
    assert np.array(encoded.targets["probabilities"]) == pytest.approx(np.array(wanted), abs=1e-5)
    texts = loading.from_python(parts["test"], task="topic")
    assert prediction.evaluate(student, "topic", texts) == pytest.approx(made, abs=1e-5)
    shutil.rmtree(own)
    orphan = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    assert len(prediction.predict(orphan, "topic", texts)) == 30, "a student predicts without its teacher"
    with pytest.raises(ModelError, match=r"no teacher .* any more"):
        prediction.evaluate(orphan, "topic", texts)


@pytest.mark.parametrize(
    ("task", "error", "problem"),
    [
        (
            {"teacher_task": "bgi"},
            DataError,
            "task 'topic', train: the teacher .* has no task 'bgi'. Did you mean 'big'",
        ),
        ({}, DataError, "the teacher .* has no task 'topic'"),
        ({"teacher_task": "score"}, DataError, "task 'score' of the teacher .* has no classes .*Regression"),
        ({"teacher_task": "pair"}, DataError, "reads 2 texts a row \\(sentence, second\\), but 'text' names 1"),
        (
            {"teacher": "nowhere"},
            ModelError,
            "task 'topic': the teacher cannot be opened: .*nowhere: no such run folder",
        ),
        ({"teacher_task": "big", "label": "label"}, DataError, "row 1 .*label 'animal', which is not .*'animals'"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    task: dict[str, Any], error: type[Exception], problem: str, teacher: Path, models: Any
) -> None:
    with pytest.raises(error, match=problem):
        run({"train": [{"text": "the cat", "label": "animal"}]}, models["bert"], {"teacher": str(teacher), **task})


def test_a_teacher_is_opened_with_the_plugins_of_the_run(
    teacher: Path, models: Any, toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue.discover()

    def refuse() -> Catalogue:
        raise AssertionError("the run has a catalogue")

    monkeypatch.setattr(Catalogue, "discover", refuse)
    rows = [{"text": row["text"]} for row in toys.rows(4)]
    task = {"teacher": str(teacher), "teacher_task": "big"}
    result = run({"train": rows}, models["bert"], task, steps=1, catalogue=catalogue)
    assert result.stages[0].steps == 1


def test_the_recipe_of_a_run_names_its_teacher_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options(teacher="runs/big")
    assert options.teacher == str(tmp_path / "runs" / "big")
    assert json.loads(options.model_dump_json())["teacher"] == options.teacher
