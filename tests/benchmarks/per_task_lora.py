"""Eight tasks with a LoRA each in one mixed batch: beside PEFT's `adapter_names`, and beside eight separate trainings.

python tests/benchmarks/per_task_lora.py [--rounds N] [--steps N] [--passes N] [--json PATH]

`inference`: a random BERT of MiniLM's size on 32 rows of 25 tokens; `above_trunk_ms` is what the adapters cost beyond
the bare trunk, `of_peft` that cost over the cost of PEFT's loop over the adapters, `batch_of_peft` the whole batch over
PEFT's. `training`: the real encoder on sentences, four rows of each task in a step; the mixed run takes a batch of 32,
each of the eight separate runs a batch of 4 of its own task, for as many steps. `separate_is_times` is the time of the
eight over that of the mixed run for the same rows; loading, tokenizing and the first three steps do not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ours
import side_by_side
import torch
import workload
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import BertConfig, BertModel

from hft_plugins.strategies.per_task import hydra_lora, mtl_lora, shared_task_lora, task_lora

TASKS = tuple(f"task-{i}" for i in range(8))
RANK, WIDTH = 16, 25
SIZES = {"equal": (4,) * 8, "uneven": (7, 1, 4, 6, 2, 3, 5, 4)}
"""Rows of each task in a batch of 32."""
WARM_UP = 3
TRAINED = {f"topic{i}": 4 for i in range(8)}
"""Rows of each task in a training step."""

Run = Callable[[dict[str, Tensor], tuple[int, ...]], Tensor]


def bare() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return BertModel(config, add_pooling_layer=False).eval()


def routed(strategy: Any) -> Run:
    trunk: Any = bare()
    backbone: Any = SimpleNamespace(
        trunk=trunk, layers=trunk.encoder.layer, forward=lambda inputs: trunk(**inputs).last_hidden_state
    )
    strategy.apply(backbone, TASKS)

    def run(inputs: dict[str, Tensor], sizes: tuple[int, ...]) -> Tensor:
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        rows = [(task, slice(end - size, end)) for task, size, end in zip(TASKS, sizes, ends, strict=True)]
        hidden: Tensor = strategy.forward(backbone, inputs, rows)
        return hidden

    return run


def by_peft() -> Run:
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


def contenders() -> dict[str, Run]:
    trunk = bare()
    return {
        "trunk": lambda inputs, sizes: trunk(**inputs).last_hidden_state,
        "peft": by_peft(),
        "task-lora": routed(task_lora.build(task_lora.Options(r=RANK))),
        "shared-task-lora": routed(shared_task_lora.build(shared_task_lora.Options(r=RANK))),
        "mtl-lora": routed(mtl_lora.build(mtl_lora.Options(r=RANK))),
        "hydra-lora": routed(hydra_lora.build(hydra_lora.Options(r=RANK))),
    }


def inference(report: side_by_side.Report, rounds: int) -> None:
    every = contenders()
    inputs = {"input_ids": torch.randint(1000, 20000, (32, WIDTH)), "attention_mask": torch.ones(32, WIDTH).long()}
    for groups, sizes in SIZES.items():
        seconds = in_turn(every, inputs, sizes, rounds)
        above = {
            name: statistics.median(t - bare for t, bare in zip(times, seconds["trunk"], strict=True))
            for name, times in seconds.items()
        }
        for name in [name for name in every if name != "trunk"]:
            whole = zip(seconds[name], seconds["peft"], strict=True)
            report.add(
                what="inference",
                groups=groups,
                contender=name,
                trunk_ms=1e3 * statistics.median(seconds["trunk"]),
                above_trunk_ms=1e3 * above[name],
                of_peft=above[name] / above["peft"],
                batch_of_peft=statistics.median(ours / theirs for ours, theirs in whole),
                goal="–" if name == "peft" else "of PEFT ≤ 0.5, batch ≤ 1",
            )


@torch.no_grad()
def in_turn(
    every: dict[str, Run], inputs: dict[str, Tensor], sizes: tuple[int, ...], rounds: int
) -> dict[str, list[float]]:
    """The seconds of all contenders, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds + WARM_UP):
        for name, run in every.items():
            started = time.perf_counter()
            run(inputs, sizes)
            seconds[name].append(time.perf_counter() - started)
    return {name: times[WARM_UP:] for name, times in seconds.items()}


def training(report: side_by_side.Report, rounds: int, steps: int) -> None:
    texts = workload.texts("short", 50 * len(TRAINED))
    rows = {task: texts[i :: len(TRAINED)] for i, task in enumerate(TRAINED)}

    def mixed() -> float:
        return seconds_a_step(rows, steps, "task-lora")

    def separate() -> float:
        return sum(seconds_a_step({task: part}, steps, "lora") for task, part in rows.items())

    ratios, spent = [], []
    for _ in range(rounds):
        spent.append((mixed(), separate()))
        ratios.append(spent[-1][1] / spent[-1][0])
    together, apart = (statistics.median(times) for times in zip(*spent, strict=True))
    report.add(
        what="training",
        groups="equal",
        contender="task-lora",
        mixed_ms_a_step=1e3 * together,
        separate_ms_a_step=1e3 * apart,
        separate_is_times=statistics.median(ratios),
        goal="above 1",
    )


def seconds_a_step(rows: dict[str, list[dict[str, str]]], steps: int, strategy: str) -> float:
    """Seconds of a training step with `TRAINED` rows of each of the tasks."""
    sizes = {task: TRAINED[task] for task in rows}
    watch, _ = ours.trained(
        rows,
        steps,
        strategy={"type": strategy, "r": RANK},
        sampling={"batch_size": sizes},
    )
    return (watch.ended - watch.began) / (watch.steps - watch.skip)


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=5, steps=25, passes=30)
    report = side_by_side.Report("per_task_lora")
    inference(report, settings.passes)
    training(report, settings.rounds, settings.steps)
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
