from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import mean_absolute_error, mean_squared_error
from transformers import AutoModelForSequenceClassification

import hft_core
from hft_core.backbone import Features
from hft_core.head import Targets
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions
from hft_plugins.heads.regression import Options, build


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scipy_and_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    references = random.normal(size=30).round(1)
    predictions = (references + random.normal(size=30)).round(1)
    found = build(Options(), task="t").metrics(predictions.tolist(), references.tolist(), 0.3)
    assert found == pytest.approx(
        {
            "loss": 0.3,
            "mse": mean_squared_error(references, predictions),
            "mae": mean_absolute_error(references, predictions),
            "pearson": stats.pearsonr(references, predictions).statistic,
            "spearman": stats.spearmanr(references, predictions).statistic,
        }
    )


@pytest.mark.parametrize(
    ("predictions", "references"), [([1.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [2.0, 2.0]), ([1.0], [1.0])]
)
def test_a_correlation_that_is_not_defined_is_0(predictions: list[float], references: list[float]) -> None:
    found = build(Options(), task="t").metrics(predictions, references, 0.0)
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)


def test_equals_the_loss_and_values_of_the_plain_class(models: Any, toys: Any) -> None:
    rows = toys.rows(6)
    head = build(Options(label="score"), task="t")
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    head.attach(backbone)
    head.eval()
    backbone.trunk.eval()
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    features = Features(backbone.forward(dict(inputs)), inputs["input_ids"], inputs["attention_mask"])
    target = torch.tensor(head.targets_of([row["score"] for row in rows]))
    plain = AutoModelForSequenceClassification.from_pretrained(models["bert"], num_labels=1).eval()
    assert head.family is not None
    plain.load_state_dict(head.family.plain_state(), strict=False)
    told = plain(**inputs, labels=target)
    torch.testing.assert_close(head.loss(features, Targets(6, {"target": target})) / 6, told.loss, atol=1e-5, rtol=0)
    assert head.predict(features, Targets(0, {})) == pytest.approx(told.logits.squeeze(1).tolist(), abs=1e-5)
    assert head.answer([0.25], {}) == {"value": 0.25}
    assert head.config()["problem_type"] == "regression"


@pytest.mark.parametrize("value", [1e16, -1e30, "1e38"])
def test_a_target_whose_square_float32_cannot_compute_with_is_named(value: Any) -> None:
    assert "expected a number between -1e+15 and 1e+15" in build(Options(), task="t").check({"label": value})


def test_a_target_that_is_0_in_float32_only_is_named() -> None:
    head = build(Options(), task="t")
    assert "found 1e-60, which is 0 in float32" in head.check({"label": 1e-60})
    assert head.check({"label": 0.0}) == head.check({"label": "1e-30"}) == head.check({"label": -1e15}) == ""


def test_targets_that_differ_in_float64_only_are_refused() -> None:
    head = build(Options(), task="t")
    with pytest.raises(ValueError, match=r"from 1700000000 to 1700000030 are one and the same in float32"):
        head.learn({"label": [1_700_000_000, 1_700_000_030]})
    head.learn({"label": [5, 5, 5]})
    head.learn({"label": [1_700_000_000, 1_700_001_000]})
    assert head.facts == {"scale": 512.0}


@pytest.mark.parametrize(
    ("targets", "scale"),
    [([1, 2, 3, 4, 5], 1.0), ([0, 300], 128.0), ([7, 7], 1.0), ([0.0, 0.001], 2.0**-11)],
)
def test_targets_are_divided_by_a_power_of_two_near_their_deviation(targets: list[float], scale: float) -> None:
    head = build(Options(), task="t")
    head.learn({"label": targets})
    assert head.facts == {"scale": scale}
    plain = build(Options(standardize=False), task="t")
    plain.learn({"label": targets})
    assert plain.facts == {} and plain.scale == 1.0


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_saved_weights_give_the_targets_own_numbers(family: str, models: Any, toys: Any) -> None:
    """The plain class of transformers predicts what the head does, and the weights come back to the last bit."""
    head = build(Options(label="score", pooling="auto"), task="t")
    head.learn({"score": [0.0, 900.0, 1800.0]})
    kind = decoder if family == "llama" else encoder
    backbone = kind.build((DecoderOptions if family == "llama" else EncoderOptions)(model=str(models[family])))
    head.attach(backbone)
    scorer = head.scorer
    assert scorer is not None
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    head.eval()
    backbone.trunk.eval()
    inputs = backbone.tokenizer([row["text"] for row in toys.rows(3)], padding=True, return_tensors="pt")
    inputs = {name: tensor for name, tensor in inputs.items() if name in ("input_ids", "attention_mask")}
    features = Features(backbone.forward(inputs), inputs["input_ids"], inputs["attention_mask"])
    values = head.predict(features, Targets(0, {}))
    if family != "llama":  # whose class has no bias
        assert all(300 < value < 1500 for value in values), "starts from the mean"
    if head.family is None:
        output = head.pooled_output()
        assert output is not None
        torch.testing.assert_close(output.bias, head.scale * scorer.output.bias, atol=0, rtol=0)
        return
    state = head.export_state(head.family.plain_state())
    plain = AutoModelForSequenceClassification.from_pretrained(models[family], num_labels=1).eval()
    plain.config.pad_token_id = backbone.tokenizer.pad_token_id
    plain.load_state_dict(state, strict=False)
    assert plain(**inputs).logits.squeeze(1).tolist() == pytest.approx(values, rel=1e-4, abs=1e-2)
    head.family.load_plain_state(head.import_state(state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in scorer.state_dict().items())


@pytest.mark.parametrize("scale", [4e14, 1e-15])
def test_the_largest_targets_train(scale: float, models: Any, toys: Any) -> None:
    rows = [{**row, "score": row["score"] * scale} for row in toys.rows(40)]
    recipe = {
        "backbone": str(models["bert"]),
        "tasks": {"t": {"head": "regression", "label": "score"}},
        "stages": {"max_steps": 4},
        "precision": "fp32",
    }
    result = hft_core.run(recipe, data={"t": rows})
    assert math.isfinite(result.final["dev"]["t"]["loss"])


MEASURED = [0.3, 1.2, 2.7, 1.9, 0.8, 2.2] * 5


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (MEASURED, ""),
        ([1990, 2003, 2003, 2010, 2024] * 6, ""),
        ([0.0] * 25 + [1.0] * 5, ""),
        ([2.0] * 30, "all 30 targets are 2: nothing is learned"),
        ([*MEASURED, -999, -999], r"2 of 32 rows have the target -999, far from the others \(0.3 to 2.7\)"),
        ([*MEASURED, "9999", 9999, 9999], "3 of 33 rows have the target 9999"),
        ([*MEASURED, 60], ""),
        ([*MEASURED, 1e9], r"1 of 31 rows has the target 1e\+09, far from the others \(0.3 to 2.7\)"),
        ([50 + value for value in MEASURED] + [-1] * 6, r"6 of 36 rows have the target -1, far from the others"),
        ([50 + value for value in MEASURED] + [-1], ""),
        ([10.0**value for value in MEASURED], ""),
        (list(range(100, 130)), r"all different and evenly spaced \(100 to 129\)"),
        ([1_700_000_000 + 60 * i for i in range(30)], "all different and evenly spaced"),
        ([20240115, 20240201, 20231231] * 10, r"look like dates \(20240115\)"),
        ([20240115, 20240299, 12345678] * 10, ""),
    ],
)
def test_odd_targets_are_learned_and_told_of(targets: list[Any], said: str) -> None:
    head = build(Options(), task="t")
    head.learn({"label": targets})
    assert len(head.warnings) == bool(said)
    assert re.search(said, "".join(head.warnings))
