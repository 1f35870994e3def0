"""Combiners of all shared gradients learn from one backward pass over the rows of all tasks what they learn from a pass
for each; and where a trunk's layers do not go row by row, they make a pass for each."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from hft_core import hookimpl
from hft_core.events import StepFinished
from hft_core.gradients import one_pass
from hft_core.runs.stages import Stages

BACKBONES = {"llama": "hf-decoder", "gpt2": "hf-decoder", "t5": "hf-seq2seq", "bart": "hf-seq2seq"}
TASKS: dict[str, Any] = {
    "topic": {"head": "classification"},
    "pair": {"head": {"type": "classification", "text": ["text", "other"], "label": "fits"}},
    "language": {"head": "mlm"},
}
LORA = {"type": "lora", "r": 4}


class Losses:
    def __init__(self) -> None:
        self.seen: list[float] = []

    @hookimpl
    def hft_step_finished(self, event: StepFinished) -> None:
        self.seen += [*event.losses.values(), *event.weights.values(), event.gradient_norm]


def recipe(models: Any, kind: str, tasks: tuple[str, ...] = ("topic", "pair"), **stage: Any) -> dict[str, Any]:
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 12,
        "eval_strategy": "no",
        "head_warmup_steps": 1,
        "combiner": "upgrad",
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-5,
        "cache_activations": "no",
    }
    return {
        "backbone": {"type": BACKBONES.get(kind, "hf-encoder"), "model": str(models[kind]), "dropout": 0.0},
        "tasks": {task: TASKS[task] for task in tasks},
        "stages": [{**settings, **stage}],
        "precision": "fp32",
    }


def trained(prepare: Callable[..., Stages], chosen: dict[str, Any], toys: ModuleType) -> tuple[Losses, Stages]:
    losses = Losses()
    stages = prepare(chosen, {task: {"train": toys.rows(30)} for task in chosen["tasks"]}, losses)
    stages.begin()
    stages.next()
    return losses, stages


ROW_BY_ROW: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "all weights, and a head that shares the embeddings": ("bert", ("topic", "pair", "language"), {}),
    "several batches a step": ("bert", ("topic", "pair"), {"per_device_train_batch_size": 5}),
    "positions of each row": ("roberta", ("topic", "pair"), {}),
    "positions of all rows": ("distilbert", ("topic", "pair"), {}),
    "rotary positions": ("modernbert", ("topic", "pair"), {}),
    "norms of their own kind": ("llama", ("topic", "pair"), {}),
    "products of their own kind": ("gpt2", ("topic", "pair"), {}),
    "LoRA": ("bert", ("topic", "pair"), {"strategy": {**LORA, "lora_dropout": 0.0}}),
    "LoRA in an encoder-decoder": ("t5", ("topic", "pair"), {"strategy": LORA}),
    "biases": ("bert", ("topic", "pair"), {"strategy": "bitfit"}),
    "norms": ("bert", ("topic", "pair"), {"strategy": "layer-norm"}),
    "upper layers": ("bert", ("topic", "pair"), {"strategy": {"type": "partial", "layers": 1}}),
    "a prefix": (
        "bert",
        ("topic", "pair"),
        {"strategy": {"type": "peft", "method": "PREFIX_TUNING", "num_virtual_tokens": 4}},
    ),
    "a combiner that is shown the gradients themselves": ("bert", ("topic", "pair"), {"combiner": "gradvac"}),
}


@pytest.mark.parametrize("case", ROW_BY_ROW)
def test_one_pass_teaches_what_a_pass_for_each_task_teaches(
    case: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, tasks, stage = ROW_BY_ROW[case]
    chosen = recipe(models, kind, tasks, **stage)
    found, stages = trained(prepare, chosen, toys)
    assert stages.execution.one_pass
    monkeypatch.setattr(one_pass, "matches", lambda model, batch: False)
    wanted, plain = trained(prepare, chosen, toys)
    assert found.seen == pytest.approx(wanted.seen, rel=1e-4, abs=1e-5)
    theirs = plain.material.model.state_dict()
    for name, tensor in stages.material.model.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], atol=2e-5, rtol=0, msg=name)


OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "a bias of positions that all rows share": ("t5", {}),
    "factors that no layer owns": ("bert", {"strategy": {"type": "peft", "method": "IA3"}}),
    "a prompt, which is embedded once for all rows": (
        "bert",
        {"strategy": {"type": "peft", "method": "PROMPT_TUNING", "num_virtual_tokens": 4}},
    ),
    "layers that are computed again": ("bert", {"gradient_checkpointing": True}),
    "rows that are routed": ("bert", {"strategy": {"type": "shared-task-lora", "r": 4, "task_r": 2}}),
    "a frozen trunk": ("bert", {"strategy": "frozen"}),
    "a combiner of losses": ("bert", {"combiner": "sum"}),
    "a combiner at the representation": ("bert", {"combiner": {"type": "upgrad", "at": "representation"}}),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_other_stages_go_their_own_way(
    case: str, models: Any, toys: ModuleType, prepare: Callable[..., Stages]
) -> None:
    kind, stage = OTHERWISE[case]
    losses, stages = trained(prepare, recipe(models, kind, **stage), toys)
    assert not stages.execution.one_pass
    assert all(map(torch.isfinite, torch.tensor(losses.seen)))


def test_it_takes_the_rows_of_all_tasks_through_the_trunk_at_once(
    models: Any, toys: ModuleType, prepare: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    through = one_pass.collect_task_gradients

    def counted(trunk: Any, jacobian: Any, rows: Any, size: int, casts: Any) -> Any:
        passes.append(size)
        return through(trunk, jacobian, rows, size, casts)

    monkeypatch.setattr("hft_core.gradients.shared_gradients.collect_task_gradients", counted)
    trained(prepare, recipe(models, "bert", max_steps=3, per_device_train_batch_size=12), toys)
    assert passes == [12, 12, 12]
