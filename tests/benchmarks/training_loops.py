"""Real tokens a second of hft beside a textbook loop, the best loop by hand, and Hugging Face's Trainer (with PEFT).

python tests/benchmarks/training_loops.py [--rounds N] [--steps N] [--json PATH]

The same encoder, texts, batch of 32 and optimizer settings. `textbook` pads every row to 128 tokens in float32;
`by hand` has like-length batches, fused AdamW and the number format that is fastest here; `Trainer` pads to the longest
of a random batch, `Trainer, grouped` has batches of like length, the longest first. Tokenizing, loading and the first
three steps do not count. Real tokens are compared, since a few steps of one loop may have longer rows than those of
another.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ours
import side_by_side
import torch
import workload
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hft_core.device import precision

BATCH, SKIP = 32, 3
RATE = 5e-5
STRATEGIES = {"full": "full", "lora": {"type": "lora", "r": 8}, "frozen": "frozen"}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


def encoded(rows: Sequence[dict[str, str]], label: str, *, pad: bool = False) -> list[dict[str, Any]]:
    tokenizer = AutoTokenizer.from_pretrained(workload.model_folder())
    names = sorted({row[label] for row in rows})
    padding = {"padding": "max_length"} if pad else {}
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=workload.TOKENS, **padding)
    return [
        {"input_ids": i, "attention_mask": m, "labels": names.index(row[label])}
        for i, m, row in zip(ids["input_ids"], ids["attention_mask"], rows, strict=True)
    ]


def classifier(strategy: str) -> nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(workload.model_folder(), num_labels=5)
    if strategy == "lora":
        return get_peft_model(model, LoraConfig(**LORA, modules_to_save=["classifier"]))
    if strategy == "frozen":
        model.base_model.requires_grad_(False)
    return model


# --- loops by hand


def timed(step: Callable[[Any], None], batches: Iterator[Any]) -> float:
    """Real tokens a second of the batches after the first ones."""
    tokens, began = 0, 0.0
    for number, batch in enumerate(batches):
        step(batch)
        tokens += sum(sum(row["attention_mask"]) for row in batch) if number >= SKIP else 0
        began = time.perf_counter() if number == SKIP - 1 else began
    return tokens / (time.perf_counter() - began)


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    whole = {
        name: torch.tensor([row[name] + [0] * (width - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    }
    return {**whole, "labels": torch.tensor([row["labels"] for row in rows])}


def like_length(rows: list[dict[str, Any]], steps: int) -> list[list[dict[str, Any]]]:
    """Batches of like length, as many as asked for, in random order."""
    chosen = random.Random(0).sample(rows, steps * BATCH)
    chosen.sort(key=lambda row: len(row["input_ids"]))
    batches = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
    random.Random(1).shuffle(batches)
    return batches


def textbook(strategy: str, rows: list[dict[str, Any]], steps: int) -> float:
    model = classifier(strategy).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    chosen = random.Random(0).sample(rows, (steps + SKIP) * BATCH)

    def step(batch: list[dict[str, Any]]) -> None:
        model(**padded(batch)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, (chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)))


def by_hand(strategy: str, tasks: dict[str, list[dict[str, Any]]], steps: int) -> float:
    """One trunk, a linear head a task on its first position's or its mean hidden state, rows of all tasks mixed."""
    trunk = AutoModel.from_pretrained(workload.model_folder(), add_pooling_layer=False).train()
    if strategy == "lora":
        trunk = get_peft_model(trunk, LoraConfig(**LORA))
    elif strategy == "frozen":
        trunk.requires_grad_(False).eval()
    heads = nn.ModuleList([nn.Linear(384, 5) for _ in tasks])
    trained = [p for module in (trunk, heads) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, fused=True)
    autocast = precision.choose("auto", torch.device("cpu")).autocast(torch.device("cpu"))
    whole = [{**row, "task": number} for number, rows in enumerate(tasks.values()) for row in rows]

    def step(batch: list[dict[str, Any]]) -> None:
        owner = torch.tensor([row["task"] for row in batch])
        inputs = padded(batch)
        labels = inputs.pop("labels")
        with autocast:
            hidden = trunk(**inputs).last_hidden_state
            mask = inputs["attention_mask"][:, :, None]
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            losses = [
                nn.functional.cross_entropy(head(pooled[owner == number]).float(), labels[owner == number])
                for number, head in enumerate(heads)
                if bool((owner == number).any())
            ]
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return timed(step, iter(like_length(whole, steps + SKIP)))


# --- Trainer


class Clock(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.ended = time.perf_counter()
        if state.global_step == SKIP:
            self.began = self.ended


class Counting(DataCollatorWithPadding):
    """Notes the real tokens of each batch."""

    def __call__(self, features: Any) -> Any:
        batch = super().__call__(features)
        vars(self).setdefault("tokens", []).append(int(batch["attention_mask"].sum()))
        return batch


def trainer(
    strategy: str, rows: list[dict[str, Any]], steps: int, *, grouped: bool = False, half: bool = False
) -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=steps + SKIP,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
            bf16=half,
            **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
        )
        collator = Counting(AutoTokenizer.from_pretrained(workload.model_folder()))
        Trainer(
            classifier(strategy),
            settings,
            train_dataset=Dataset.from_list(rows),
            data_collator=collator,
            callbacks=[clock],
        ).train()
    tokens = vars(collator)["tokens"][SKIP : SKIP + steps]
    return sum(tokens) / (clock.ended - clock.began)


def hft(strategy: str, tasks: dict[str, list[dict[str, str]]], steps: int) -> float:
    watch, _ = ours.trained(tasks, steps, skip=SKIP, strategy=STRATEGIES[strategy], learning_rate=RATE)
    return watch.token_rate


def cell(report: side_by_side.Report, kind: str, strategy: str, count: int, rounds: int, steps: int) -> None:
    """All contenders on one kind of text, under one strategy, with so many tasks."""
    texts = workload.texts(kind, 4000)
    names = list(workload.LABELS)[:count]
    parts = {name: texts[number::count] for number, name in enumerate(names)}
    tokens = {name: encoded(rows, name) for name, rows in parts.items()}
    contenders: dict[str, Callable[[], float]] = {
        "hft": lambda: hft(strategy, parts, steps),
        "by hand": lambda: by_hand(strategy, tokens, steps),
    }
    if count == 1:
        whole = encoded(texts, "topic", pad=True)
        contenders |= {
            "Trainer": lambda: trainer(strategy, tokens["topic"], steps),
            "Trainer, grouped": lambda: trainer(strategy, tokens["topic"], steps, grouped=True),
            "Trainer, grouped, bf16": lambda: trainer(strategy, tokens["topic"], steps, grouped=True, half=True),
            "textbook": lambda: textbook(strategy, whole, max(2, steps // 5)),
        }
    if precision.choose("auto", torch.device("cpu")).name == "fp32":  # it would take a hundred times as long
        contenders.pop("Trainer, grouped, bf16", None)
    found = side_by_side.in_turn(contenders, rounds)
    for name in contenders:
        rates = sorted(found[name])
        report.add(
            texts=kind,
            strategy=strategy,
            tasks=count,
            contender=name,
            tokens_per_s=rates[len(rates) // 2],
            hft_is_times=side_by_side.ratio(found, "hft", name),
        )


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=3, steps=25)
    report = side_by_side.Report("training_loops")
    for kind in ("short", "mixed"):
        for strategy in STRATEGIES:
            for count in (1, 4):
                cell(report, kind, strategy, count, settings.rounds, settings.steps)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
