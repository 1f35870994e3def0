"""The strategy on tiny models: what it adjusts, how it trains, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hft_core
from hft_core import Catalogue, PluginError, hookimpl
from hft_core.backbone import Backbone
from hft_core.predict import open_run, predict, rows_from_texts
from hft_core.testing import trunks
from hft_lora_pro.strategy import LoraPro, Options, build

TEXTS = {
    "animals": ["the cat saw the dog", "the horse followed the rabbit again", "the whale called", "the sparrow"],
    "money": ["the bank called the broker", "the market saw the trader again", "the investor", "the auditor called"],
}
ROWS = [{"text": text, "label": label} for label, texts in TEXTS.items() for text in texts]


def recipe(family: str = "BERT", **stage: Any) -> dict[str, Any]:
    common = {"strategy": {"type": "lora-pro", "r": 4}, "per_device_train_batch_size": 8, "learning_rate": 2e-2}
    return {
        "backbone": {"model": str(trunks.folder(family)), "dropout": 0.0},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [{**common, "max_steps": 40, "eval_strategy": "no", **stage}],
        "precision": "fp32",
    }


def data() -> dict[str, Any]:
    return {"topic": dict.fromkeys(("train", "dev", "test"), ROWS)}


def injected(family: str = "BERT", **options: Any) -> tuple[Backbone, LoraPro]:
    """A tiny trunk with the strategy applied, in the midst of its training."""
    backbone = trunks.opened(Catalogue.discover(), family)
    strategy = build(Options(r=4, **options))
    strategy.apply(backbone, ("topic",))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for pair in strategy.pairs():
            pair.b.add_(0.05 * torch.randn(pair.b.shape, generator=random))
    return backbone, strategy


def backward(backbone: Backbone, strategy: LoraPro, scale: float = 1.0) -> None:
    """Gradients of a loss of the hidden states."""
    inputs = dict(backbone.tokenizer([row["text"] for row in ROWS], padding=True, return_tensors="pt"))
    hidden = strategy.forward(backbone, inputs, [("topic", slice(0, len(ROWS)))])
    (scale * hidden.float().square().mean()).backward()


def projection(matrix: Tensor) -> Tensor:
    """Onto the columns of `matrix`."""
    return matrix @ torch.linalg.pinv(matrix)


@pytest.mark.parametrize("family", ["BERT", "Llama"])
def test_the_weights_follow_the_nearest_to_their_full_gradient(family: str) -> None:
    backbone, strategy = injected(family)
    bases = [layer.get_base_layer().weight for layer in strategy._layers.values()]
    for weight in bases:
        weight.requires_grad_(True)
    backward(backbone, strategy, scale=100.0)
    strategy.gradients_ready(backbone, 0)
    for pair, weight in zip(strategy.pairs(), bases, strict=True):
        a, b, full = pair.a.detach().double(), pair.b.detach().double(), weight.grad.double()
        equivalent = pair.scale * (pair.b.grad.double() @ a + b @ pair.a.grad.double())
        outside = (torch.eye(len(b)) - projection(b)) @ full @ (torch.eye(len(a.T)) - projection(a.T))
        torch.testing.assert_close(equivalent, full - outside, rtol=1e-3, atol=1e-4 * float(full.abs().max()))


def test_a_layer_without_gradients_is_left_alone() -> None:
    backbone, strategy = injected()
    backward(backbone, strategy)
    first, *others = strategy.pairs()
    first.a.grad = first.b.grad = None
    before = [pair.a.grad.clone() for pair in others]
    strategy.gradients_ready(backbone, 0)
    assert first.a.grad is None and first.b.grad is None
    assert not any(torch.equal(old, pair.a.grad) for old, pair in zip(before, others, strict=True))


def test_a_step_that_is_not_finite_stays_so_and_is_skipped_by_the_loop() -> None:
    backbone, strategy = injected()
    backward(backbone, strategy, scale=float("nan"))
    strategy.gradients_ready(backbone, 0)
    assert not any(bool(torch.isfinite(pair.a.grad).any()) for pair in strategy.pairs())


class Losses:
    """Each step's loss, and why steps were skipped."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.skipped: list[str] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.losses.append(event.losses["topic"])
        self.skipped.append(event.skipped)


@pytest.mark.parametrize("family", ["BERT", "Llama"])
def test_it_learns(family: str) -> None:
    watch = Losses()
    result = hft_core.run(recipe(family), data=data(), observers=[watch])
    assert watch.losses[-1] < watch.losses[0] / 3
    assert not any(watch.skipped)
    assert result.final["test"]["topic"]["accuracy"] == 1.0


def test_it_trains_in_bfloat16() -> None:
    watch = Losses()
    hft_core.run({**recipe(), "precision": "bf16"}, data=data(), observers=[watch])
    assert watch.losses[-1] < watch.losses[0] / 2
    assert not any(watch.skipped)


def test_it_goes_another_way_than_lora_from_the_second_step_on() -> None:
    def losses(strategy: str) -> list[float]:
        watch = Losses()
        stage = {"strategy": {"type": strategy, "r": 4}, "max_steps": 8, "head_warmup_steps": 0}
        hft_core.run(recipe(**stage), data=data(), observers=[watch])
        return watch.losses

    lora, lora_pro = losses("lora"), losses("lora-pro")
    assert lora[0] == lora_pro[0]
    assert lora[-1] != lora_pro[-1]


def test_the_adapter_equals_plain_peft(tmp_path: Path) -> None:
    hft_core.run(recipe(), data=data(), output=tmp_path / "run")
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("adapter_config.json")}
    plain = AutoModelForSequenceClassification.from_pretrained(trunks.folder("BERT"), num_labels=2)
    model = peft.PeftModel.from_pretrained(plain, folder).eval()
    texts = [row["text"] for row in ROWS]
    tokenizer = AutoTokenizer.from_pretrained(trunks.folder("BERT"))
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    run = open_run(tmp_path / "run", Catalogue.discover())
    answers = predict(run, "topic", rows_from_texts(run, "topic", texts))
    ours = torch.tensor([[answer["probabilities"][label] for label in sorted(TEXTS)] for answer in answers])
    torch.testing.assert_close(torch.softmax(logits, dim=1), ours, rtol=0, atol=1e-5)


def test_another_stage_can_follow() -> None:
    stages = [recipe()["stages"][0] | {"name": name, "max_steps": 3} for name in ("one", "two")]
    result = hft_core.run({**recipe(), "stages": stages}, data=data())
    assert [stage.strategy for stage in result.stages] == ["lora-pro", "lora-pro"]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            ("word_embeddings",),
            r"^strategy 'lora-pro': target_modules must be linear layers; .*word_embeddings' is Embedding$",
        ),
        (("no_such_layer",), r"^strategy 'lora-pro': PEFT refuses: .*no_such_layer"),
    ],
)
def test_what_it_cannot_adapt_is_refused_in_one_line(modules: tuple[str, ...], message: str) -> None:
    with pytest.raises(PluginError, match=message) as error:
        injected(target_modules=modules)
    assert "\n" not in str(error.value)
