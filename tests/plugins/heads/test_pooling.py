from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

import hft_core
from hft_core import Catalogue, HftError
from hft_core.backbone import Features
from hft_core.predict import prediction, saved_run
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.parts.pooling import POOLINGS, AttentionPool, PooledLinear, make_pooler, pool
from hft_plugins.heads.parts.sequence_scorer import FAMILY, family_pooling, sequence_scorer

SEQUENCE = "AutoModelForSequenceClassification"
HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, -4.0], [5.0, 9.0]], [[1.0, 1.0], [2.0, 0.0], [7.0, 7.0]]])
FEATURES = Features(HIDDEN, torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 1, 0]]))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [[1.0, 2.0], [1.0, 1.0]]),
        ("mean", [[3.0, 7 / 3], [1.5, 0.5]]),
        ("max", [[5.0, 9.0], [2.0, 1.0]]),
        ("last", [[5.0, 9.0], [2.0, 0.0]]),
    ],
)
def test_padding_counts_for_nothing(pooling: Any, expected: list[list[float]]) -> None:
    torch.testing.assert_close(pool(FEATURES, pooling), torch.tensor(expected))


def test_attention_begins_as_the_mean_and_follows_its_scores() -> None:
    attention = AttentionPool(2)
    torch.testing.assert_close(attention(FEATURES), pool(FEATURES, "mean"))
    with torch.no_grad():
        attention.score.weight.copy_(
            torch.tensor([[100.0, 0.0]])
        )  # nearly all on the token whose first value is largest
    torch.testing.assert_close(attention(FEATURES), torch.tensor([[5.0, 9.0], [2.0, 0.0]]))


def backbone_of(models: Any, name: str) -> Any:
    if name in ("llama", "gpt2"):
        return decoder.build(DecoderOptions(model=str(models[name])))
    return encoder.build(EncoderOptions(model=str(models[name])))


@pytest.mark.parametrize(
    ("name", "choice"),
    [
        ("bert", FAMILY),  # its pooler came with the checkpoint
        ("bert-without-pooler", "mean"),
        ("bert-constant-pooler", "mean"),
        ("roberta", FAMILY),
        ("distilbert", FAMILY),
        ("llama", FAMILY),
        ("bert-sentence-encoder", "max"),
    ],
)
def test_auto_takes_what_was_trained_and_otherwise_the_mean(
    name: str, choice: str, models: Any, tmp_path: Path
) -> None:
    base, _, variant = name.partition("-")
    backbone = backbone_of(models if not variant else {base: changed(Path(models[base]), variant, tmp_path)}, base)
    assert sequence_scorer(backbone, 3, SEQUENCE, "auto").choice == choice


def changed(source: Path, variant: str, folder: Path) -> Path:
    """A copy of a BERT without its pooler, with one of zeros, or with the files of a sentence encoder."""
    target = folder / variant
    shutil.copytree(source, target)
    if variant == "sentence-encoder":
        entries = [
            {"path": "", "type": "a.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        (target / "modules.json").write_text(json.dumps(entries))
        (target / "1_Pooling").mkdir()
        (target / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
        return target
    model = transformers.BertModel.from_pretrained(source, add_pooling_layer=variant == "constant-pooler")
    if model.pooler is not None:
        torch.nn.init.zeros_(model.pooler.dense.weight)
    model.save_pretrained(target)
    return target


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("roberta", "cls"), ("distilbert", "cls"), ("llama", "last"), ("gpt2", "last"), ("modernbert", "cls")],
)
def test_how_a_familys_class_pools_is_seen_from_its_outputs(name: str, pooling: str, models: Any) -> None:
    backbone = backbone_of(models, name)
    assert family_pooling(backbone, backbone.sequence_module(SEQUENCE, num_labels=2)) == pooling


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pooling_that_is_asked_for_is_the_one_that_is_computed(pooling: Any, models: Any) -> None:
    backbone = backbone_of(models, "bert")
    scorer = sequence_scorer(backbone, 2, SEQUENCE, pooling)
    assert isinstance(scorer.module, PooledLinear)
    hidden = torch.randn(2, 3, backbone.hidden_size)
    features = Features(hidden, FEATURES.input_ids, FEATURES.attention_mask)
    expected = scorer.module.output(make_pooler(pooling, backbone.hidden_size)(features))
    torch.testing.assert_close(scorer.module(features), expected)


def test_a_pooler_that_a_model_lacks_is_refused(models: Any, toys: ModuleType) -> None:
    with pytest.raises(HftError, match="pooling 'pooler': the model has no pooler; expected auto or one of cls, mean"):
        trained(models["llama"], toys, None, pooling="pooler")


def trained(model: Any, toys: ModuleType, output: Path | None, strategy: str = "full", **head: Any) -> Any:
    recipe = {
        "backbone": {"model": str(model)},
        "tasks": {"t": {"head": "classification", **head}},
        "stages": [{"strategy": strategy, "max_steps": 2, "learning_rate": 1e-2, "train_batch_size": 8}],
        "precision": "fp32",
    }
    classes = 2 if head.get("loss") == "bce" else 3
    rows = {"train": toys.rows(40, classes=classes), "dev": toys.rows(10, seed=1, classes=classes)}
    return hft_core.run(recipe, data={"t": rows}, output=output)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("strategy", ["full", "lora"])
def test_a_saved_run_pools_as_it_was_trained(
    strategy: str, pooling: str, models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    result = trained(models["bert"], toys, tmp_path / "run", strategy, pooling=pooling)
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    assert opened.model.head("t").facts["pooling"] == pooling
    rows = prediction.rows_from_texts(opened, "t", [row["text"] for row in toys.rows(10, seed=1)])
    answers = [a["label"] for a in prediction.predict(opened, "t", rows)]
    right = sum(a == row["label"] for a, row in zip(answers, toys.rows(10, seed=1), strict=True))
    assert right / 10 == result.final["dev"]["t"]["accuracy"]


@pytest.mark.parametrize("options", [{}, {"loss": "bce"}], ids=["classes", "one logit"])
def test_a_task_folder_has_the_modules_of_a_sentence_encoder(
    options: dict[str, Any], models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    trained(models["bert"], toys, tmp_path / "run", pooling="mean", **options)
    folder, texts = tmp_path / "run/model/t", [row["text"] for row in toys.rows(6, seed=1)]
    kinds = [entry["type"].rpartition(".")[2] for entry in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Dense"]
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert [mode for mode, on in pooling.items() if on is True] == ["pooling_mode_mean_tokens"]
    trunk = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    dense = load_file(folder / "2_Dense/model.safetensors")
    with torch.no_grad():
        hidden, mask = trunk(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        logits = (hidden * mask).sum(1) / mask.sum(1) @ dense["linear.weight"].T + dense["linear.bias"]
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    answers = prediction.predict(opened, "t", prediction.rows_from_texts(opened, "t", texts))
    expected = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    torch.testing.assert_close(logits.softmax(dim=1), expected, atol=1e-5, rtol=0)


def test_a_run_saved_before_the_choice_was_recorded_opens_as_it_was(
    models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    trained(models["roberta"], toys, tmp_path / "run")
    file = tmp_path / "run/model/t/task.json"
    facts = json.loads(file.read_text())["facts"]
    del facts["pooling"]
    file.write_text(json.dumps({"facts": facts}))
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    assert opened.model.head("t").family is not None
