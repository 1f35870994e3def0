"""The `lora` strategy against PEFT used directly on transformers' own class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hft_core import hookimpl
from hft_core.model import HybridModel
from hft_core.stages import Stages, plan_of

TOLERANCE = 1e-6
STEPS = 3
HEADS = {"bert": ["pooler", "classifier"], "roberta": ["classifier"], "llama": ["score"]}
TARGETS = {"bert": ["query", "value"], "roberta": ["query", "value"], "llama": ["q_proj", "v_proj"]}


class Watch:
    """Copies the trained weights when the stage starts and after each step, and each step's loss."""

    def __init__(self) -> None:
        self.model: HybridModel | None = None
        self.weights: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    @hookimpl
    def hft_stage_started(self) -> None:
        self.weights.append(self._trained())

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.losses.append(event.losses["topic"])
        self.weights.append(self._trained())

    def _trained(self) -> dict[str, Tensor]:
        """By the names of PEFT's model, without its infix for modules that are trained whole."""
        assert self.model is not None
        family = self.model.head("topic").family
        assert family is not None
        prefix = f"base_model.model.{self.model.backbone.trunk_prefix}"
        lora = {f"{prefix}.{n}": p for n, p in self.model.trunk.named_parameters() if p.requires_grad}
        head = {f"base_model.model.{n}": p for n, p in family.plain_state().items()}
        return {name: tensor.detach().clone() for name, tensor in {**lora, **head}.items()}


def peft_model(path: Path, name: str) -> Any:
    config = AutoConfig.from_pretrained(path, num_labels=3)
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, key, 0.0)
    plain = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[name], modules_to_save=HEADS[name])
    return get_peft_model(plain, lora)


def trained(model: Any) -> dict[str, Tensor]:
    return {n.replace(".modules_to_save.default", ""): p for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", sorted(HEADS))
def test_lora_equals_peft(name: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]) -> None:
    path, watch, rows = models[name], Watch(), toys.rows(40)
    strategy = {"type": "lora", "r": 4, "lora_alpha": 8, "target_modules": TARGETS[name]}
    stage = {
        "strategy": strategy,
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "head_learning_rate": 1e-2,
        "head_warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_epsilon": 1e-6,
        "eval_strategy": "no",
    }
    recipe = {
        "backbone": {"model": str(path), "dropout": 0.0},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [stage],
    }
    stages = prepare(recipe, {"topic": {"train": rows}}, watch)
    watch.model = stages.material.model
    stages.run(0, stages.material.resolved.stages[0], last=True)

    model, tokenizer = peft_model(path, name), AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    parameters = trained(model)
    assert parameters.keys() == watch.weights[0].keys()
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(watch.weights[0][key])
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, eps=1e-6, weight_decay=0.0)
    plan, _ = plan_of(stages.material.resolved.recipe.stages[0], stages.material, 0)
    labels = sorted({row["label"] for row in rows})
    model.train()
    for step in range(STEPS):
        chosen = [rows[int(i)] for part in plan.step(step) for i in part.examples]
        batch = tokenizer([row["text"] for row in chosen], padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([labels.index(row["label"]) for row in chosen])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert watch.losses[step] == pytest.approx(loss.item(), abs=TOLERANCE)
        for key, parameter in parameters.items():
            assert float((watch.weights[step + 1][key] - parameter.detach()).abs().max()) <= TOLERANCE, (
                f"step {step}, {key}"
            )
