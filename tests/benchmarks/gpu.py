"""What a GPU gives: decoder and encoder under LoRA and full beside Trainer, combiners, compiled layers, transfers.

python tests/benchmarks/gpu.py [--rounds N] [--steps N] [--json PATH]

Random weights, bfloat16, rows of equal length. `mfu` is the share of the GPU's dense bfloat16 rate that the model's own
products reach (PaLM, arXiv:2204.02311, appendix B: six operations a parameter and token, four where the trunk's weights
are frozen, and those of attention; an encoder's LM head is left out, which hft computes where tokens are masked only);
empty for a GPU whose rate is not listed here. `MiB` is the most that torch
allocated. The goals: an MFU of 0.45 for full and 0.40 for LoRA on the decoder, 1.1 times PEFT with Trainer, an exact
combiner of four tasks within 1.25 times the sum. With `HFT_GPU_REHEARSAL=1` on a CPU, with tiny sizes: figures without
a meaning.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ours
import side_by_side
import torch
import workload
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hft_core
from hft_core.batching.batch import Batch

REHEARSAL = os.environ.get("HFT_GPU_REHEARSAL") == "1"
SKIP = 2
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
STRATEGIES: dict[str, Any] = {"full": "full", "lora": {"type": "lora", **LORA}}
RATES = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "A10": 125e12}
"""Dense bfloat16 operations a second, as the maker states them, by a part of the GPU's name."""


@dataclass(frozen=True)
class Size:
    kind: str
    """The backbone's plugin."""
    hidden: int
    layers: int
    heads: int
    inner: int
    tokens: int
    rows: int

    def model(self, vocabulary: int) -> PreTrainedModel:
        common = {
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.tokens,
            "pad_token_id": 0,
        }
        if self.kind == "hf-encoder":
            return AutoModelForMaskedLM.from_config(BertConfig(**common))
        return AutoModelForCausalLM.from_config(LlamaConfig(**common, num_key_value_heads=max(1, self.heads // 8)))


SIZES = {
    "decoder, 1.1 billion": Size("hf-decoder", 2048, 22, 32, 5632, 4096, 4),
    "encoder, 110 million": Size("hf-encoder", 768, 12, 12, 3072, 512, 32),
}
TINY = {
    "decoder, tiny": Size("hf-decoder", 32, 2, 4, 64, 64, 2),
    "encoder, tiny": Size("hf-encoder", 32, 2, 4, 64, 64, 4),
}


@cache
def folder(name: str, size: Size) -> str:
    """Write a random model with a tokenizer of words, and return its folder."""
    words = {"<pad>": 0, "<unk>": 1, "<mask>": 2, "<s>": 3, "</s>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=200 if REHEARSAL else 32_000, special_tokens=list(words))
    tokenizer.train_from_iterator((row["text"] for row in workload.texts("mixed", 4000)), trainer)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>", "eos_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, model_max_length=size.tokens)
    where = Path(tempfile.mkdtemp(prefix="hft-gpu-"))
    size.model(fast.vocab_size).save_pretrained(where)
    fast.save_pretrained(where)
    return str(where)


@cache
def texts(size: Size, count: int) -> list[str]:
    """Return texts that are longer than the model reads."""
    sentences = [row["text"] for row in workload.texts("short", 6000)]
    words = " ".join(sentences).split()
    return [" ".join(words[start : start + size.tokens + 8]) for start in range(0, 97 * count, 97)]


def with_hft(name: str, size: Size, strategy: str, steps: int) -> float:
    head = {"head": "clm" if size.kind == "hf-decoder" else "mlm", "max_length": size.tokens}
    recipe = {
        "backbone": {"type": size.kind, "model": folder(name, size)},
        "tasks": {"language": head},
        "stages": [
            {
                "strategy": STRATEGIES[strategy],
                "max_steps": steps + SKIP,
                "train_batch_size": size.rows,
                "eval_strategy": "no",
            }
        ],
        "precision": "bf16",
    }
    rows = [{"text": text} for text in texts(size, size.rows * (steps + SKIP))]
    watch = ours.Watch(SKIP)
    hft_core.run(recipe, data={"language": {"train": rows}}, observers=[watch])
    return watch.token_rate


class _Clock(TrainerCallback):
    began = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == SKIP:
            _finish()
            self.began = time.perf_counter()


def with_trainer(name: str, size: Size, strategy: str, steps: int) -> float:
    """`bf16=True`, as it comes; with `lora`, PEFT's, and the base in bfloat16."""
    decoder = size.kind == "hf-decoder"
    auto = AutoModelForCausalLM if decoder else AutoModelForMaskedLM
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder(name, size))
    model = auto.from_pretrained(folder(name, size), dtype=torch.bfloat16 if strategy == "lora" else torch.float32)
    if strategy == "lora":
        model = get_peft_model(model, LoraConfig(**LORA))
    ids = tokenizer(texts(size, size.rows * (steps + SKIP)), truncation=True, max_length=size.tokens)["input_ids"]
    clock = _Clock()
    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(
            out,
            per_device_train_batch_size=size.rows,
            max_steps=steps + SKIP,
            bf16=True,
            report_to=[],
            save_strategy="no",
            use_cpu=REHEARSAL,
            disable_tqdm=True,
            logging_strategy="no",
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm=not decoder)
        rows = Dataset.from_dict({"input_ids": ids})
        Trainer(model, settings, train_dataset=rows, data_collator=collator, callbacks=[clock]).train()
    _finish()
    return size.rows * size.tokens * steps / (time.perf_counter() - clock.began)


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def mfu(size: Size, strategy: str, tokens_a_second: float) -> float | None:
    """Return the share of the GPU's rate; None where that is not known."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    peak = next((rate for part, rate in RATES.items() if part in device), None)
    if peak is None:
        return None
    gated, grouped = (3, 2 / 8) if size.kind == "hf-decoder" else (2, 2)
    weights = size.layers * size.hidden * ((2 + grouped) * size.hidden + gated * size.inner)
    passes = 4 if strategy == "lora" else 6
    head = 6 if strategy == "full" else 4
    attention = 6 * 2 * size.layers * size.hidden * size.tokens * (0.5 if size.kind == "hf-decoder" else 1)
    vocabulary = 32_000 * size.hidden if size.kind == "hf-decoder" else 0
    return tokens_a_second * (passes * weights + head * vocabulary + attention) / peak


def beside_trainer(report: side_by_side.Report, rounds: int, steps: int) -> None:
    for name, size in (TINY if REHEARSAL else SIZES).items():
        for strategy in STRATEGIES:
            rates, memory = dict[str, list[float]](), dict[str, float]()
            contenders = {"hft": with_hft, "Trainer": with_trainer}
            for _ in range(rounds):
                for contender, run in contenders.items():
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    rates.setdefault(contender, []).append(run(name, size, strategy, steps))
                    if torch.cuda.is_available():
                        memory[contender] = torch.cuda.max_memory_allocated() / 2**20
            for contender, found in rates.items():
                rate = statistics.median(found)
                report.add(
                    what=f"{name}, {strategy}",
                    contender=contender,
                    **{"tokens a second": rate, "mfu": mfu(size, strategy, rate), "MiB": memory.get(contender)},
                    **{"times Trainer": side_by_side.ratio(rates, contender, "Trainer")},
                )


def stages(report: side_by_side.Report, rounds: int, steps: int) -> None:
    """What a stage's settings cost or gain, on the real encoder with short texts, as multiples of the plain stage."""
    tasks = {name: workload.texts("short", 4000)[i::4] for i, name in enumerate(workload.LABELS)}
    ways: dict[str, dict[str, Any]] = {
        "four tasks, sum": {},
        "four tasks, pcgrad, exact": {"combiner": "pcgrad"},
        "four tasks, pcgrad at the representation": {"combiner": {"type": "pcgrad", "at": "representation"}},
        "four tasks, compiled": {"torch_compile": True},
    }

    def contender(stage: dict[str, Any]) -> Callable[[], float]:
        return lambda: ours.trained(tasks, steps, precision="bf16", **stage)[0].rate

    found = side_by_side.in_turn({name: contender(stage) for name, stage in ways.items()}, rounds)
    first = next(iter(ways))
    for name in ways:
        report.add(what=name, contender="hft", **{"step, times the sum's": side_by_side.ratio(found, first, name)})


def transfers(report: side_by_side.Report, rounds: int) -> None:
    """How long the process waits for a batch of 64 × 512 tokens on its way to the device, from pinned memory or not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ids = torch.randint(0, 1000, (64, 512))
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (), idle_task="t")

    def plain() -> float:
        return _rate(lambda: {name: tensor.to(device) for name, tensor in batch.inputs.items()})

    found = side_by_side.in_turn({"plain": plain, "hft": lambda: _rate(lambda: batch.to(device))}, rounds)
    for name in found:
        report.add(
            what="transfer of a batch", contender=name, **{"times plain": side_by_side.ratio(found, name, "plain")}
        )


def _rate(move: Callable[[], object], count: int = 50) -> float:
    _finish()
    began = time.perf_counter()
    for _ in range(count):
        move()
    taken = time.perf_counter() - began
    _finish()
    return count / taken


def main() -> None:
    given = side_by_side.arguments(__doc__ or "", rounds=2, steps=10)
    if not torch.cuda.is_available() and not REHEARSAL:
        raise SystemExit("error: there is no GPU; HFT_GPU_REHEARSAL=1 tries this out on the CPU")
    report = side_by_side.Report("gpu")
    if torch.cuda.is_available():
        report.add(what="GPU", contender=torch.cuda.get_device_name(0))
    transfers(report, given.rounds)
    stages(report, given.rounds, given.steps)
    beside_trainer(report, given.rounds, given.steps)
    side_by_side.finish(report, given.json)


if __name__ == "__main__":
    main()
