"""The loop against a training loop written by hand on transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from hft_core import hookimpl
from hft_core.events import StepFinished
from hft_core.model.hybrid import HybridModel
from hft_core.runs.stage_parts import plan_of
from hft_core.runs.stages import Stages

TOLERANCE = 2e-6
STEPS, BATCH = 12, 8
EPSILON = 1e-5
"""Of Adam: a key's bias has a gradient of exactly 0 but for rounding, which a smaller epsilon would blow up."""


@dataclass
class Trace:
    """What each step did."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)


class Watch:
    """Writes down what each step of a run does to the model."""

    def __init__(self) -> None:
        self.model: HybridModel | None = None
        self.trace = Trace()

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        assert self.model is not None
        self.trace.losses.append(event.losses["topic"])
        self.trace.norms.append(event.gradient_norm)
        self.trace.weights.append(weights_of(self.model))


def weights_of(model: HybridModel) -> dict[str, Tensor]:
    """The model's weights by the names of the plain class."""
    prefix = model.backbone.trunk_prefix
    trunk = {f"{prefix}.{name}": tensor for name, tensor in model.trunk.state_dict().items()}
    family = model.head("topic").family
    assert family is not None
    return {name: tensor.detach().clone() for name, tensor in {**trunk, **family.plain_state()}.items()}


def recipe(model: Path, **stage: Any) -> dict[str, Any]:
    return {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [
            {
                "strategy": "full",
                "max_steps": STEPS,
                "per_device_train_batch_size": BATCH,
                "learning_rate": 2e-3,
                "head_learning_rate": 2e-3,
                "head_warmup_steps": 0,
                "warmup_steps": 3,
                "weight_decay": 0.1,
                "adam_epsilon": EPSILON,
                "max_grad_norm": 0.5,
                "eval_strategy": "no",
                **stage,
            }
        ],
    }


def run(stages: Stages, watch: Watch) -> Trace:
    watch.model = stages.material.model
    stages.run(0, stages.material.resolved.stages[0], fold=False)
    return watch.trace


def plain_model(stages: Stages, path: Path) -> Any:
    """The plain class with the same weights, fresh ones included."""
    config = AutoConfig.from_pretrained(path, num_labels=3)
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"):
        setattr(config, key, 0.0)
    model = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
    model.load_state_dict(weights_of(stages.material.model))
    return model


def plain_loop(model: Any, path: Path, texts: Sequence[Sequence[str]], labels: Sequence[list[int]]) -> Trace:
    """What any tutorial does, with the settings of `recipe`."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=2e-3, eps=EPSILON
    )
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=3, num_training_steps=len(texts))
    seen = Trace()
    model.train()
    for sentences, targets in zip(texts, labels, strict=True):
        batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor(targets)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        seen.losses.append(loss.item())
        seen.norms.append(norm.item())
        seen.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return seen


def batches(stages: Stages) -> tuple[list[list[str]], list[list[int]]]:
    """The texts and labels of each step, by the plan's row numbers alone."""
    plan, _ = plan_of(stages.material.resolved.recipe.stages[0], stages.material, 0)
    rows = stages.material.rows["topic"]["train"]
    names = sorted(set(rows["label"]))
    chosen = [[int(i) for part in plan.step(step) for i in part.units] for step in range(STEPS)]
    texts = [[rows["text"][i] for i in ids] for ids in chosen]
    return texts, [[names.index(rows["label"][i]) for i in ids] for ids in chosen]


def assert_equal(ours: Trace, plain: Trace) -> None:
    assert len(ours.losses) == len(plain.losses) == STEPS
    assert ours.losses == pytest.approx(plain.losses, abs=TOLERANCE)
    assert ours.norms == pytest.approx(plain.norms, rel=1e-5)
    for step, (mine, theirs) in enumerate(zip(ours.weights, plain.weights, strict=True)):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert float((tensor - theirs[name]).abs().max()) <= TOLERANCE, f"step {step}, {name}"


@pytest.mark.parametrize("name", ["bert", "roberta", "llama"])
def test_equals_a_plain_pytorch_loop(name: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]) -> None:
    watch = Watch()
    stages = prepare(recipe(models[name]), {"topic": {"train": toys.rows(50)}}, watch)
    plain = plain_loop(plain_model(stages, models[name]), models[name], *batches(stages))
    assert_equal(run(stages, watch), plain)


@pytest.mark.parametrize(
    "division",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"max_tokens_per_batch": 40},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_tokens_per_batch": 30},
    ],
)
def test_a_step_divided_into_batches_of_uneven_length_equals_the_undivided_step(
    division: dict[str, int], models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    watch = Watch()
    stages = prepare(recipe(models["bert"], **division), {"topic": {"train": toys.rows(50)}}, watch)
    plain = plain_loop(plain_model(stages, models["bert"]), models["bert"], *batches(stages))
    assert_equal(run(stages, watch), plain)
