"""What the LoRAs of eight tasks cost in one mixed batch, beyond the bare trunk, beside PEFT's `adapter_names`.

    OMP_NUM_THREADS=1 python tests/benchmarks/per_task_lora.py [ROUNDS]

A random BERT of MiniLM's size on the CPU. Times are medians of paired runs: each round times every contender once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import BertConfig, BertModel

from hft_plugins.strategies import hydra_lora, mtl_lora, shared_task_lora, task_lora

TASKS = tuple(f"task-{i}" for i in range(8))
RANK, WIDTH = 16, 25
SIZES = {"equal": (4,) * 8, "uneven": (7, 1, 4, 6, 2, 3, 5, 4)}
"""Rows of each task in a batch of 32."""


def bare() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return BertModel(config, add_pooling_layer=False).eval()


def routed(strategy: Any) -> Callable[[dict[str, Tensor], tuple[int, ...]], Tensor]:
    trunk: Any = bare()
    backbone: Any = SimpleNamespace(trunk=trunk, forward=lambda inputs: trunk(**inputs).last_hidden_state)
    strategy.apply(backbone, TASKS)

    def run(inputs: dict[str, Tensor], sizes: tuple[int, ...]) -> Tensor:
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        rows = [(task, slice(end - size, end)) for task, size, end in zip(TASKS, sizes, ends, strict=True)]
        hidden: Tensor = strategy.forward(backbone, inputs, rows)
        return hidden

    return run


def by_peft() -> Callable[[dict[str, Tensor], tuple[int, ...]], Tensor]:
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model = get_peft_model(bare(), config, TASKS[0])
    for task in TASKS[1:]:
        model.add_adapter(task, config)
    model.eval()

    def run(inputs: dict[str, Tensor], sizes: tuple[int, ...]) -> Tensor:
        names = [task for task, size in zip(TASKS, sizes, strict=True) for _ in range(size)]
        hidden: Tensor = model(**inputs, adapter_names=names).last_hidden_state
        return hidden

    return run


def contenders() -> dict[str, Callable[[dict[str, Tensor], tuple[int, ...]], Tensor]]:
    trunk = bare()
    return {
        "trunk": lambda inputs, sizes: trunk(**inputs).last_hidden_state,
        "peft": by_peft(),
        "task-lora": routed(task_lora.build(task_lora.Options(r=RANK))),
        "shared-task-lora": routed(shared_task_lora.build(shared_task_lora.Options(r=RANK))),
        "mtl-lora": routed(mtl_lora.build(mtl_lora.Options(r=RANK))),
        "hydra-lora": routed(hydra_lora.build(hydra_lora.Options(r=RANK))),
    }


def main(rounds: int) -> None:
    every = contenders()
    inputs = {"input_ids": torch.randint(1000, 20000, (32, WIDTH)), "attention_mask": torch.ones(32, WIDTH).long()}
    for label, sizes in SIZES.items():
        seconds: dict[str, list[float]] = {name: [] for name in every}
        with torch.no_grad():
            for _ in range(rounds + 3):
                for name, run in every.items():
                    started = time.perf_counter()
                    run(inputs, sizes)
                    seconds[name].append(time.perf_counter() - started)
        paired = {name: times[3:] for name, times in seconds.items()}  # the first ones warm up
        above = {n: [t - bare for t, bare in zip(times, paired["trunk"], strict=True)] for n, times in paired.items()}
        cost = {name: statistics.median(times) for name, times in above.items()}
        print(f"{label} groups: trunk {statistics.median(paired['trunk']) * 1e3:.1f} ms")
        for name in [name for name in every if name != "trunk"]:
            print(f"  {name:17} {cost[name] * 1e3:6.1f} ms above the trunk, {cost[name] / cost['peft']:.2f} of PEFT")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
