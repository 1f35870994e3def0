"""`task-lora` on mixed batches against each task trained alone: PEFT's LoRA on transformers' own class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from hft_core import hookimpl
from hft_core.model.hybrid import HybridModel
from hft_core.runs.stage_parts import plan_of
from hft_core.runs.stages import Stages

TOLERANCE = 1e-6
STEPS = 3
TASKS: dict[str, dict[str, Any]] = {  # names that begin with one another
    "a": {"head": "classification", "label": "label"},
    "a-b": {"head": "classification", "text": ["text", "other"], "label": "fits"},
    "ab": {"head": "classification", "label": "label"},
}
RANKS = {"a": 4, "a-b": 2, "ab": 4}
HEADS = {"bert": ["pooler", "classifier"], "llama": ["score"], "gpt2": ["score"]}
RATE, EPSILON = 3e-3, 1e-4  # Adam divides by the gradient: one that is all rounding would move by a whole step


class Watch:
    """Copies each task's weights and gradients when the optimizer is about to move, and each task's losses."""

    def __init__(self) -> None:
        self.model: HybridModel | None = None
        self.weights: list[dict[str, dict[str, Tensor]]] = []
        self.gradients: list[dict[str, dict[str, Tensor | None]]] = []
        self.losses: list[dict[str, float]] = []

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.losses.append(dict(event.losses))

    def before_step(self, optimizer: Any, *_: Any) -> None:
        each = {task: self.trained(task) for task in TASKS}
        self.weights.append({task: {n: p.detach().clone() for n, p in own.items()} for task, own in each.items()})
        self.gradients.append(
            {
                task: {n: None if p.grad is None else p.grad.clone() for n, p in own.items()}
                for task, own in each.items()
            }
        )

    def trained(self, task: str) -> dict[str, Tensor]:
        """What the task trains, by the names of PEFT's model without its infixes."""
        assert self.model is not None
        family = self.model.head(task).family
        assert family is not None
        infix = f".private.task_{task}."
        prefix = f"base_model.model.{self.model.backbone.trunk_prefix}."
        own = {n: p for n, p in self.model.trunk.named_parameters() if infix in n}
        lora = {f"{prefix}{n.replace(infix, '.')}.weight": p for n, p in own.items()}
        return {**lora, **{f"base_model.model.{n}": p for n, p in family.plain_state().items()}}


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    handle = register_optimizer_step_pre_hook(watch.before_step)
    yield watch
    handle.remove()


class Alone:
    """One task, trained by PEFT and PyTorch without hft."""

    def __init__(self, path: Path, name: str, task: str, labels: list[str]) -> None:
        config = AutoConfig.from_pretrained(path, num_labels=len(labels))
        for key in config.to_dict():
            if "dropout" in key or key.endswith("pdrop"):
                setattr(config, key, 0.0)
        plain = AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)
        lora = LoraConfig(
            r=RANKS[task],
            lora_alpha=8,
            target_modules="all-linear",
            modules_to_save=HEADS[name],
            fan_in_fan_out=name == "gpt2",
            task_type="SEQ_CLS",
        )
        self.model = get_peft_model(plain, lora)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.labels = labels
        self.column = TASKS[task]["label"]
        self.texts = TASKS[task].get("text", ["text"])
        infixes = (".modules_to_save.default", ".default")
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = {n.replace(infixes[0], "").replace(infixes[1], ""): p for n, p in trained}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=RATE, eps=EPSILON, weight_decay=0.0)
        self.model.train()

    def loss(self, rows: list[dict[str, Any]]) -> Tensor:
        texts = [[row[column] for row in rows] for column in self.texts]
        batch = self.tokenizer(*texts, padding=True, return_tensors="pt")
        targets = torch.tensor([self.labels.index(row[self.column]) for row in rows])
        loss: Tensor = self.model(**batch, labels=targets).loss
        return loss


@pytest.mark.parametrize("name", sorted(HEADS))
def test_equals_single_task_lora(
    name: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], watch: Watch
) -> None:
    data = {task: {"train": toys.rows(24, seed=i)} for i, task in enumerate(TASKS)}
    stage = {
        "strategy": {"type": "task-lora", "r": 4, "task_r": {"a-b": 2}, "lora_alpha": 8},
        "sampling": "uniform",
        "max_steps": STEPS,
        "per_device_train_batch_size": 15,
        "learning_rate": RATE,
        "head_learning_rate": RATE,
        "head_warmup_steps": 0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "adam_epsilon": EPSILON,
        "max_grad_norm": None,
        "eval_strategy": "no",
    }
    recipe = {"backbone": {"model": str(models[name]), "dropout": 0.0}, "tasks": TASKS, "stages": [stage]}
    stages = prepare(recipe, data, watch)
    watch.model = stages.material.model
    stages.run(0, stages.material.resolved.stages[0], fold=False)
    watch.weights.append({task: watch.trained(task) for task in TASKS})
    assert all(set(losses) == set(TASKS) for losses in watch.losses), "every batch was to be a mixed one"

    plan, _ = plan_of(stages.material.resolved.recipe.stages[0], stages.material, 0)
    for task in TASKS:
        rows = data[task]["train"]
        alone = Alone(models[name], name, task, sorted({row[TASKS[task]["label"]] for row in rows}))
        assert alone.parameters.keys() == watch.weights[0][task].keys()
        with torch.no_grad():
            for key, parameter in alone.parameters.items():
                parameter.copy_(watch.weights[0][task][key])
        for step in range(STEPS):
            chosen = [rows[int(i)] for part in plan.step(step) if part.task == task for i in part.units]
            loss = alone.loss(chosen)
            loss.backward()
            assert watch.losses[step][task] == pytest.approx(loss.item(), abs=TOLERANCE)
            _equal(watch.gradients[step][task], {k: p.grad for k, p in alone.parameters.items()}, f"gradient {step}")
            alone.optimizer.step()
            alone.optimizer.zero_grad()
            _equal(watch.weights[step + 1][task], alone.parameters, f"weight {step}")


def _equal(ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
    for key, tensor in theirs.items():
        difference = float((ours[key] - tensor).detach().abs().max())
        assert difference <= TOLERANCE * max(1.0, float(tensor.detach().abs().max())), f"{what}, {key}"
