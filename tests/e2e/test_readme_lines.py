"""The lines of a run's README, executed: they give what `hft predict` gives, wherever the run was moved to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

import hft_core
from hft_core import Catalogue, HftError
from hft_core.predict import prediction, saved_run

STRATEGIES: dict[str, Any] = {
    "full": "full",
    "frozen": "frozen",
    "partial": {"type": "partial", "layers": 1},
    "bitfit": "bitfit",
    "lora": "lora",
    "task-lora": "task-lora",
    "prefix": {"type": "prefix", "num_virtual_tokens": 4},
    "bottleneck": "bottleneck",
}
FAMILIES = (
    "bert",
    "distilbert",
    "roberta",
    "gpt2",
    "llama",
    "t5",
    "bart",
    "albert",
    "bert-classifier",
    "gpt2-classifier",
    "bert-bfloat16",
    "llama-bfloat16",
)
DECODERS, SEQ2SEQ = ("gpt2", "llama"), ("t5", "bart")
HEADS: dict[str, dict[str, Any]] = {
    "classification": {"head": "classification"},
    "pairs": {"head": "classification", "loss": "bce", "text": ["text", "other"], "label": "fits"},
    "mean": {"head": "classification", "pooling": "mean"},
    "pairs by the largest": {
        "head": "classification",
        "loss": "bce",
        "text": ["text", "other"],
        "label": "fits",
        "pooling": "max",
    },
    "multilabel": {"head": "multilabel", "label": "kinds"},
    "regression": {"head": "regression", "label": "score"},
    "embeddings": {"head": "contrastive", "text": ["text", "other"], "projection_dim": 8},
    "tags": {"head": "token-classification", "words": "words", "tags": "tags"},
    "language": {},
    "answers": {},
}
WRITING = {"max_new_tokens": 12, "num_beams": 2, "no_repeat_ngram_size": 2}
TEXTS = ["the cat saw the dog", "the market followed the bank near the old river", "again"]
OTHERS = ["the bank", "the dog surprised the runner again", "on friday"]
TOLERANCE = 2e-5


def rows(toys: ModuleType, count: int, seed: int) -> list[dict[str, Any]]:
    made = toys.rows(count, seed=seed)
    for row in made:
        row["kinds"] = [row["label"], *(["again"] if "again" in row["text"] else [])]
        row["words"] = row["text"].split()
        things = ("cat", "dog", "bank", "market", "runner")
        row["tags"] = ["B-THING" if word in things else "O" for word in row["words"]]
    return made


def base_of(family: str, models: Any, folder: Path) -> Path:
    """The tiny model of a family; a classifier of two classes, or one stored in bfloat16, is made of it."""
    name, _, variant = family.partition("-")
    if family == "albert":
        return albert(models, folder / family)
    source = Path(models[name])
    if not variant:
        return source
    target = folder / family
    torch.manual_seed(3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    if variant == "classifier":
        kind: Any = transformers.AutoModelForSequenceClassification
        kind.from_pretrained(source, num_labels=2, pad_token_id=tokenizer.pad_token_id).save_pretrained(target)
    else:
        kind = transformers.AutoModelForCausalLM if name in DECODERS else transformers.AutoModelForMaskedLM
        kind.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def albert(models: Any, target: Path) -> Path:
    tokenizer = transformers.AutoTokenizer.from_pretrained(models["bert"])
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.AlbertConfig(
        vocab_size=len(tokenizer), embedding_size=16, max_position_embeddings=64, pad_token_id=0, **sizes
    )
    transformers.AlbertForMaskedLM(config).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def head_of(head: str, family: str) -> dict[str, Any]:
    name = family.partition("-")[0]
    if head == "answers":
        return {"head": "instruction", "prompt": "text", "response": "other", **WRITING}
    if head != "language":
        return HEADS[head]
    if name in SEQ2SEQ:
        return {"head": "seq2seq", "source": "text", "target": "other", "source_prefix": "again: ", **WRITING}
    return {"head": "clm" if name in DECODERS else "mlm"}


def code_in(readme: Path) -> dict[str, str]:
    """The Python of each task, by its heading."""
    found = re.findall(r"^### (\S+)\n\n```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    return {task.replace("\\", ""): code for task, code in found}


def executed(code: str, run: Path) -> dict[str, Any]:
    """What the lines leave behind, with the run's folder and these texts in place of the examples."""
    assert 'run = Path(".")' in code
    given = {
        'run = Path(".")': f"run = Path({str(run)!r})",
        'texts = ["A first text.", "A second and somewhat longer text."]': f"texts = {TEXTS!r}",
        'others = ["What goes with the first.", "What goes with the second."]': f"others = {OTHERS!r}",
        'words = ["A", "text", "in", "words"]': f"words = {TEXTS[1].split()!r}",
        '"a text to read"': repr(TEXTS[0]),
        '"the beginning of a text"': repr(TEXTS[0]),
        '"What is asked?"': repr(TEXTS[0]),
    }
    for example, value in given.items():
        code = code.replace(example, value)
    left: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), left)  # noqa: S102 (they are what is tested)
    return left


@pytest.mark.sampled(6)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_lines_give_what_hft_predict_gives(
    strategy: str, family: str, head: str, models: Any, toys: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    stage = {"max_steps": 2, "learning_rate": 0.01, "head_warmup_steps": 0, "warmup_steps": 0}
    recipe = {
        "backbone": {"model": str(base_of(family, models, tmp_path))},
        "tasks": {"t": head_of(head, family)},
        "stages": [{**stage, "strategy": STRATEGIES[strategy]}],
        "precision": "fp32",
    }
    data = {"t": {"train": rows(toys, 24, 0), "dev": rows(toys, 8, 1)}}
    try:
        hft_core.run(recipe, output=tmp_path / "first", data=data)
    except HftError as error:
        assert "\n" not in str(error)
        pytest.skip(f"refused: {error}")
    moved, elsewhere = tmp_path / "moved" / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved.parent.mkdir()
    shutil.move(tmp_path / "first", moved)
    monkeypatch.chdir(elsewhere)
    saved = saved_run.open_run(moved, Catalogue.discover())
    code = code_in(moved / "README.md")
    trained, strategy_of_run = saved.model.head("t"), saved.model.strategy
    pooled = trained.pooled_output() and saved.model.backbone.saves_pooled and not strategy_of_run.virtual_tokens
    plain = bool(trained.family is not None or pooled) and (not strategy_of_run.adapter or strategy_of_run.plain)
    assert set(code) == ({"t"} if plain else set())
    if plain:
        compare(head, executed(code["t"], moved), saved)


def compare(head: str, found: dict[str, Any], saved: Any) -> None:
    if head == "tags":
        (wanted,) = prediction.predict(saved, "t", [{"words": TEXTS[1].split()}])
        assert list(found["labels"].values()) == wanted["value"]
    elif head not in ("language", "tags", "answers"):
        asked = [{"text": text, "other": other} for text, other in zip(TEXTS, OTHERS, strict=True)]
        for place, wanted in enumerate(prediction.predict(saved, "t", asked)):
            if head in ("regression", "embeddings"):
                assert found["values"][place] == pytest.approx(wanted["value"], abs=TOLERANCE)
                continue
            assert found["labels"][place] == wanted["value" if head == "multilabel" else "label"]
            names = found.get("id2label") or found["model"].config.id2label
            by_name = {names[i]: p for i, p in enumerate(found["probabilities"][place].tolist())}
            assert by_name == pytest.approx(wanted["probabilities"], abs=TOLERANCE)
    elif saved.model.head("t").writing() is not None:
        (wanted,) = prediction.predict(saved, "t", [{"text": TEXTS[0]}])
        assert found["text"] == wanted["text"]
    else:
        assert "words" in found or "text" in found


def test_two_stages_leave_a_trunk_that_the_lines_find_in_the_moved_run(
    models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    stage = {"max_steps": 2, "learning_rate": 0.01, "head_warmup_steps": 0, "warmup_steps": 0}
    recipe = {
        "backbone": {"model": str(models["llama"])},
        "tasks": {"t": HEADS["classification"]},
        "stages": [{**stage, "strategy": "full"}, {**stage, "strategy": "lora"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=tmp_path / "first", data={"t": rows(toys, 24, 0)})
    shutil.move(tmp_path / "first", tmp_path / "moved")
    saved = saved_run.open_run(tmp_path / "moved", Catalogue.discover())
    compare("classification", executed(code_in(tmp_path / "moved" / "README.md")["t"], tmp_path / "moved"), saved)


def test_the_card_has_no_local_path_and_the_license_of_its_base(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(models["bert"], base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\nA model.\n")
    recipe = {
        "backbone": {"model": str(base)},
        "tasks": {"t": HEADS["classification"]},
        "stages": [{"strategy": "lora", "max_steps": 1}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=tmp_path / "run", data={"t": rows(toys, 24, 0)})
    text = (tmp_path / "run" / "README.md").read_text()
    assert str(tmp_path) not in text
    card: Any = ModelCard(text).data
    assert (card.license, card.language, card.pipeline_tag) == ("apache-2.0", ["en"], "text-classification")
    assert card.base_model is None
    assert "No license was found" not in text


def test_trained_tokens_of_a_tied_embedding_are_no_adapter_that_peft_opens_alike(
    models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    """PEFT gives them to the LM head as well."""
    recipe = {
        "backbone": {"model": str(models["gpt2"])},
        "tasks": {"t": {"head": "clm"}},
        "stages": [
            {"strategy": {"type": "peft", "method": "TRAINABLE_TOKENS", "token_indices": [4, 5, 6]}, "max_steps": 2}
        ],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=tmp_path / "run", data={"t": rows(toys, 24, 0)})
    assert code_in(tmp_path / "run" / "README.md") == {}


def test_a_pooled_head_with_virtual_tokens_has_no_lines(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    """PEFT leaves out the segments of a pair on a bare trunk, and would pool the virtual tokens as well."""
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"t": HEADS["pairs by the largest"]},
        "stages": [{"strategy": STRATEGIES["prefix"], "max_steps": 1}],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=tmp_path / "run", data={"t": rows(toys, 24, 0)})
    assert code_in(tmp_path / "run" / "README.md") == {}
    assert not (tmp_path / "run" / "model" / "t" / "modules.json").exists()
    assert (tmp_path / "run" / "model" / "t" / "head.safetensors").exists()
