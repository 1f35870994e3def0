"""A run of hft with the head: learned, saved, opened again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hft_core
from hft_core import Catalogue, predict
from hft_core.errors import DataError
from hft_core.predict import open_run
from hft_core.testing import trunks
from hft_dependency import tree
from hft_dependency.conllu import read
from hft_dependency.example_rows import dependency

HEAD = {"type": "dependency", "arc_mlp_size": 32, "label_mlp_size": 16, "mlp_dropout": 0.0}


def recipe(**stage: Any) -> dict[str, Any]:
    return {
        "backbone": {"model": str(trunks.folder("BERT"))},
        "tasks": {"syntax": {"head": HEAD}},
        "stages": [{"learning_rate": 5e-3, "head_learning_rate": 5e-3, "per_device_train_batch_size": 16, **stage}],
        "precision": "fp32",
    }


def conllu(rows: list[dict[str, Any]], path: Path) -> Path:
    """The rows as a CoNLL-U file."""
    lines = [
        [
            f"{i}\t{word}\t_\t_\t_\t_\t{head}\t{relation}\t_\t_"
            for i, (word, head, relation) in enumerate(zip(*row.values(), strict=True), 1)
        ]
        for row in rows
    ]
    path.write_text("\n\n".join("\n".join(each) for each in lines) + "\n", encoding="utf-8")
    return path


def test_a_parser_is_learned_from_conllu_saved_and_opened_again(tmp_path: Path) -> None:
    train, dev = (
        read(conllu(dependency(count, seed), tmp_path / f"{seed}.conllu")) for count, seed in ((96, 0), (24, 1))
    )
    assert train == dependency(96, 0)
    result = hft_core.run(
        recipe(num_train_epochs=15), data={"syntax": {"train": train, "dev": dev}}, output=tmp_path / "run"
    )
    scores = result.final["dev"]["syntax"]
    assert scores["uas"] > 0.95
    assert scores["las"] > 0.95
    saved = open_run(tmp_path / "run", Catalogue.discover())
    assert predict.evaluate(saved, "syntax", dev) == pytest.approx(scores, abs=1e-4)
    bare = predict.rows_from_texts(saved, "syntax", ["the cat saw the dog"])
    (answer,) = predict.predict(saved, "syntax", bare)
    assert [each["word"] for each in answer["value"]] == ["the", "cat", "saw", "the", "dog"]
    assert tree.fault([each["head"] for each in answer["value"]]) == ""
    assert answer["value"][2] == {"word": "saw", "head": 0, "relation": "root"}


def test_a_parser_and_a_classifier_share_a_lora_in_one_stage(tmp_path: Path) -> None:
    texts = [{"text": " ".join(row["words"]), "label": row["words"][2]} for row in dependency(32, 0)]
    (tmp_path / "syntax.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dependency(32, 0)))
    shared = recipe(strategy={"type": "lora", "r": 2}, max_steps=2)
    shared["tasks"]["syntax"]["data"] = {"files": [str(tmp_path / "syntax.jsonl")]}
    shared["tasks"]["verb"] = {"head": "classification"}
    hft_core.run(shared, data={"verb": texts}, output=tmp_path / "run")
    saved = open_run(tmp_path / "run", Catalogue.discover())
    (answer,) = predict.predict(saved, "syntax", predict.rows_from_texts(saved, "syntax", ["the cat saw"]))
    assert len(answer["value"]) == 3


@pytest.mark.parametrize("heads", [[2, 1, 0], [0, 0, 1], [0, 1, 7], [0, 1]])
def test_a_row_that_is_no_tree_ends_the_run_before_training_with_its_place(heads: list[int]) -> None:
    rows = dependency(8, 0)
    rows[5] = {"words": ["a", "b", "c"], "heads": heads, "relations": ["dep"] * len(heads)}
    with pytest.raises(DataError, match="row 6 of task 'syntax'"):
        hft_core.run(recipe(max_steps=1), data={"syntax": {"train": rows}})
