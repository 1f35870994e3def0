"""Strategies that carry out a method of PEFT against PEFT used directly on transformers' own class: three steps of
training, what is saved, and what is folded into the trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import hft_core
from hft_core import Catalogue, hookimpl
from hft_core.backbone import Features
from hft_core.data import loading
from hft_core.model.hybrid import HybridModel
from hft_core.predict import prediction, saved_run
from hft_core.runs import model_folders
from hft_core.runs.stage_parts import plan_of
from hft_core.runs.stages import Stages

TOLERANCE = 1e-6
STEPS = 3
HEADS = {"bert": ["pooler", "classifier"], "roberta": ["classifier"], "llama": ["score"]}
TARGETS = {"bert": ["query", "value"], "roberta": ["query", "value"], "llama": ["q_proj", "v_proj"]}


@dataclass(frozen=True)
class Case:
    """A strategy, and the configuration of PEFT that it stands for."""

    strategy: str
    config: type[peft.PeftConfig]
    options: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Those of the configuration that have other names or values than the options."""
    model: str = "bert"
    merges: bool = True

    def __str__(self) -> str:
        return f"{self.strategy}-{self.model}"


def on_layers(strategy: str, config: type[peft.PeftConfig], model: str = "bert", **rest: Any) -> Case:
    options = {**rest.pop("options", {}), "target_modules": TARGETS[model]}
    return Case(strategy, config, options, rest.pop("fields", {}), model, **rest)


def prompting(strategy: str, config: type[peft.PeftConfig], model: str = "bert", **fields: Any) -> Case:
    return Case(strategy, config, {"num_virtual_tokens": 4}, {"task_type": "SEQ_CLS", **fields}, model, merges=False)


R = {"r": 4}
CASES = [
    *(on_layers("lora", peft.LoraConfig, model, options={**R, "lora_alpha": 8}) for model in sorted(TARGETS)),
    on_layers("dora", peft.LoraConfig, options=R, fields={"lora_alpha": 8, "use_dora": True}),
    on_layers("rslora", peft.LoraConfig, options=R, fields={"lora_alpha": 8, "use_rslora": True}),
    on_layers("pissa", peft.LoraConfig, options=R, fields={"lora_alpha": 4, "init_lora_weights": "pissa"}),
    on_layers("olora", peft.LoraConfig, options=R, fields={"lora_alpha": 8, "init_lora_weights": "olora"}),
    on_layers(
        "adalora",
        peft.AdaLoraConfig,
        options={"init_r": 4, "target_r": 2, "lora_alpha": 32},
        # Without a task type, PEFT leaves its regularization out.
        fields={"total_step": STEPS, "task_type": "SEQ_CLS"},
    ),
    on_layers("vera", peft.VeraConfig, options={"r": 8}),
    on_layers("randlora", peft.RandLoraConfig, options=R),
    on_layers("fourierft", peft.FourierFTConfig, options={"n_frequency": 50}),
    on_layers("miss", peft.MissConfig, options=R),
    on_layers("oft", peft.OFTConfig, options={"oft_block_size": 8}),
    on_layers("boft", peft.BOFTConfig, options={"boft_block_size": 4}),
    Case("ia3", peft.IA3Config, {}),
    Case("ln", peft.LNTuningConfig, {}, {"target_modules": ["LayerNorm"]}),
    on_layers("peft", peft.LoHaConfig, options={**R, "method": "loha"}, fields={"method": None}),
    prompting("prefix", peft.PrefixTuningConfig),
    prompting("prompt", peft.PromptTuningConfig),
    prompting("p-tuning", peft.PromptEncoderConfig),
    prompting("prefix", peft.PrefixTuningConfig, "llama"),
    prompting("prompt", peft.PromptTuningConfig, "llama"),
]


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
        added = {n: p for n, p in self.model.trunk.named_parameters() if p.requires_grad}
        prompt = any(name.startswith("prompt_encoder.") for name in added)
        before = "base_model." if prompt else "base_model.model."
        inside = "" if prompt else f"{before}{self.model.backbone.trunk_prefix}."
        head = {f"{before}{n}": p for n, p in family.plain_state().items()}
        named = {**{f"{inside}{n}": p for n, p in added.items()}, **head}
        return {name: tensor.detach().clone() for name, tensor in named.items()}


def plain_model(path: Path, tokenizer: Any) -> Any:
    config = AutoConfig.from_pretrained(path, num_labels=3)
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, key, 0.0)
    config.pad_token_id = tokenizer.pad_token_id
    return AutoModelForSequenceClassification.from_pretrained(path, config=config, dtype=torch.float32)


def with_peft(plain: Any, case: Case) -> Any:
    fields = {k: v for k, v in {**case.options, **case.fields}.items() if v is not None}
    return peft.get_peft_model(plain, case.config(**fields, modules_to_save=list(HEADS[case.model])))


def trained(model: Any) -> dict[str, Tensor]:
    return {n.replace(".modules_to_save.default", ""): p for n, p in model.named_parameters() if p.requires_grad}


def trained_by_hft(case: Case, path: Path, rows: list[dict[str, Any]], prepare: Callable[..., Stages]) -> Any:
    watch = Watch()
    stage = {
        "strategy": {"type": case.strategy, **case.options},
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
    stages.run(0, stages.material.resolved.stages[0], fold=False)
    return stages, watch


def logits(model: HybridModel, batch: Mapping[str, Tensor]) -> Tensor:
    model.eval()
    with torch.no_grad():
        hidden = model.strategy.forward(model.backbone, dict(batch), [("topic", slice(None))])
        family = model.head("topic").family
        assert family is not None
        return family(Features(hidden, batch["input_ids"], batch["attention_mask"]))  # type: ignore[no-any-return]


def distance(one: Tensor, other: Tensor) -> float:
    return float((one.detach() - other.detach()).abs().max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_peft(case: Case, models: Any, toys: ModuleType, prepare: Callable[..., Stages], tmp_path: Path) -> None:
    path, rows = models[case.model], toys.rows(40)
    if case.model == "llama" and not case.merges:  # with virtual tokens, the plain class takes the padding for text
        rows = [row for row in toys.rows(200) if len(row["text"].split()) == 5]
    stages, watch = trained_by_hft(case, path, rows, prepare)

    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = with_peft(plain_model(path, tokenizer), case)
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
        chosen = [rows[int(i)] for part in plan.step(step) for i in part.units]
        batch = tokenizer([row["text"] for row in chosen], padding=True, return_tensors="pt")
        loss = model(**batch, labels=torch.tensor([labels.index(row["label"]) for row in chosen])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()
        if case.strategy == "adalora":
            model.base_model.update_and_allocate(step)
        else:  # whose regularization PEFT counts as loss
            assert watch.losses[step] == pytest.approx(loss.item(), abs=TOLERANCE)
        optimizer.zero_grad()
        for key, parameter in parameters.items():
            assert distance(watch.weights[step + 1][key], parameter) <= TOLERANCE, f"step {step}, {key}"
    check_what_is_saved_and_folded(case, stages, tokenizer, rows, tmp_path / "model")


def check_what_is_saved_and_folded(
    case: Case, stages: Stages, tokenizer: Any, rows: list[dict[str, Any]], folder: Path
) -> None:
    """Plain PEFT opens the saved adapter on the plain class and says the same, and so does the folded trunk."""
    model = stages.material.model
    batch = tokenizer([row["text"] for row in rows[:4]], padding=True, return_tensors="pt")
    expected = logits(model, batch)
    base = model_folders.save_model(folder, model, trunk_changed=False)
    opened = peft.PeftModel.from_pretrained(plain_model(Path(base), tokenizer), folder / "topic").eval()
    with torch.no_grad():
        assert distance(opened(**batch).logits, expected) <= 5 * TOLERANCE
    if case.merges:
        model.fold_strategy()
        assert distance(logits(model, batch), expected) <= 2e-5


@pytest.mark.parametrize("strategies", [["pissa"], ["lora", "pissa"], ["ln", "vera"], ["lora", "prefix"], ["p-tuning"]])
def test_a_finished_run_equals_peft_on_its_base_model(
    strategies: list[str], models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    """Also where an earlier stage changed the trunk, or the method changes it when it is injected."""
    rows = {"train": toys.rows(30), "dev": toys.rows(5, seed=1), "test": toys.rows(5, seed=2)}
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [{"strategy": name, "max_steps": 3, "learning_rate": 0.01} for name in strategies],
        "precision": "fp32",
    }
    result = hft_core.run(recipe, data={"topic": rows}, output=tmp_path / "run")
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    scores = prediction.evaluate(opened, "topic", loading.from_python(rows["test"], task="topic"))
    assert scores == pytest.approx(result.final["test"]["topic"], abs=TOLERANCE)

    folder = tmp_path / "run" / "model" / "topic"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = peft.PeftConfig.from_pretrained(folder).base_model_name_or_path
    model = peft.PeftModel.from_pretrained(plain_model(Path(str(base)), tokenizer), folder).eval()
    texts = [row["text"] for row in rows["test"]]
    with torch.no_grad():
        plain = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    answers = prediction.predict(opened, "topic", loading.from_python(rows["test"], task="topic"))
    ours = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    assert distance(plain, ours) <= 5 * TOLERANCE
