"""Runs of hft on a tiny folder of sentence-transformers: heads pool as it says, and what comes out is such a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hft_core
from hft_core import Catalogue, predict
from hft_core.predict import open_run
from hft_core.testing import toys

TEXTS = ["the cat saw the dog", "the market followed the broker in the early morning before anybody else"]
Make = Callable[..., Path]


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    names = list(toys.CLASSES)
    return [{"text": toys.sentence(i % 2, random), "label": names[i % 2]} for i in range(count)]


def run(place: Path, output: Path, head: str | dict[str, Any], strategy: Any, **stage: Any) -> Any:
    """One task `topic` on the folder; with labels only where the head wants them."""
    recipe = {
        "backbone": {"type": "sentence-transformers", "model": str(place)},
        "tasks": {"topic": {"head": head}},
        "stages": [{"strategy": strategy, "learning_rate": 5e-3, "head_learning_rate": 2e-2, **stage}],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data={"topic": {"train": rows(64, 0), "dev": rows(24, 1)}}, output=output)


def answers(folder: Path) -> list[dict[str, Any]]:
    saved = open_run(folder, Catalogue.discover())
    return predict.predict(saved, "topic", predict.rows_from_texts(saved, "topic", TEXTS))


@pytest.mark.parametrize("pooling", ["max", "cls"])
def test_an_embedding_model_is_trained_and_opened_by_sentence_transformers(
    folder: Make, tmp_path: Path, pooling: str
) -> None:
    library = pytest.importorskip("sentence_transformers")
    place = folder(pooling=pooling)
    run(place, tmp_path / "run", "contrastive", "full", max_steps=4)
    said = torch.tensor([answer["value"] for answer in answers(tmp_path / "run")])
    model = library.SentenceTransformer(str(tmp_path / "run" / "model" / "trunk"), device="cpu")
    found = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)
    torch.testing.assert_close(found, said, atol=1e-5, rtol=1e-5)
    before = library.SentenceTransformer(str(place), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert (found - before).abs().max() > 1e-2


def test_an_adapter_of_an_embedding_model_is_opened_by_sentence_transformers(folder: Make, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    place = folder(pooling="max")
    run(place, tmp_path / "run", "contrastive", {"type": "lora", "r": 2}, max_steps=4)
    said = torch.tensor([answer["value"] for answer in answers(tmp_path / "run")])
    model = library.SentenceTransformer(str(place), device="cpu")
    before = model.encode(TEXTS, convert_to_tensor=True)
    model.load_adapter(str(tmp_path / "run" / "model" / "topic"))
    found = model.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found, said, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 1e-4


def test_a_classifier_on_the_pooled_vector_is_learned(folder: Make, tmp_path: Path) -> None:
    result = run(folder(pooling="max"), tmp_path / "run", "classification", "full", num_train_epochs=30)
    assert result.final["dev"]["topic"]["accuracy"] > 0.9


@pytest.mark.parametrize("strategy", ["full", {"type": "lora", "r": 2}])
def test_a_classifier_on_the_pooled_vector_is_saved_and_opened_again(
    folder: Make, tmp_path: Path, strategy: Any
) -> None:
    result = run(folder(pooling="lasttoken"), tmp_path / "run", "classification", strategy, max_steps=4)
    saved = open_run(tmp_path / "run", Catalogue.discover())
    scorer = saved.model.head("topic").scorer
    assert scorer.pool.modes == ("lasttoken",)
    assert [name for name, _ in scorer.named_parameters()] == ["output.weight", "output.bias"]
    scores = predict.evaluate(saved, "topic", rows(24, 1))
    assert scores == pytest.approx(result.final["dev"]["topic"], abs=1e-4)


def test_a_head_that_names_a_pooling_gets_that_one(folder: Make, tmp_path: Path) -> None:
    run(folder(pooling="max"), tmp_path / "run", {"type": "contrastive", "pooling": "mean"}, "full", max_steps=1)
    assert len(answers(tmp_path / "run")[0]["value"]) == 16


def test_token_heads_and_language_models_are_those_of_the_transformer(folder: Make, tmp_path: Path) -> None:
    import transformers

    place = folder(pooling="mean")
    tagged = [{"words": row["text"].split(), "tags": ["O"] * len(row["text"].split())} for row in rows(8, 0)]
    tagged[0]["tags"][1] = "B-X"
    recipe = {
        "backbone": {"type": "sentence-transformers", "model": str(place)},
        "tasks": {"tags": {"head": "token-classification"}, "language": {"head": "mlm"}},
        "stages": [{"max_steps": 1}],
    }
    pytest.importorskip("seqeval")
    hft_core.run(recipe, data={"tags": {"train": tagged}, "language": rows(8, 0)}, output=tmp_path / "run")
    for task, plain in (("tags", "AutoModelForTokenClassification"), ("language", "AutoModelForMaskedLM")):
        getattr(transformers, plain).from_pretrained(tmp_path / "run" / "model" / task)
    assert open_run(tmp_path / "run", Catalogue.discover()).model.backbone.folder.entries
