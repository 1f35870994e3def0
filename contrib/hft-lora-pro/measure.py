"""What lora-pro promises, measured: one small task on MiniLM, beside full fine-tuning and LoRA at several rates.

    python measure.py

Needs `hft-core[demo]`: does a headline belong to an article of BBC news, both together cut to 24 tokens?
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import hft_core
from hft_core import Catalogue, hookimpl
from hft_core.predict import SavedRun, open_run
from hft_lora_pro.closed_form import Pair, adjust

STEPS, BATCH, TOKENS, TEST_ROWS = 60, 8, 24, 200
RUNS: list[tuple[dict[str, Any], float]] = [
    ({"type": "full"}, 2e-4),
    *(({"type": "lora", "r": 8}, rate) for rate in (5e-4, 1e-3, 2e-3)),
    *(({"type": "lora-pro", "r": 8}, rate) for rate in (1e-3, 2e-3, 4e-3)),
]


class Losses:
    """Each step's loss and time."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds = 0.0

    @hookimpl
    def hft_step_finished(self, event: Any) -> None:
        self.losses.append(event.losses["match"])
        self.seconds += event.seconds


def recipe(catalogue: Catalogue, folder: Path) -> dict[str, Any]:
    """The matching task of hft's demo, on fewer rows."""
    demo = catalogue.get("recipe", "demo")
    made = catalogue.load_factory(demo)(catalogue.load_options(demo)(), folder=folder)
    test = folder / "match-test.jsonl"
    test.write_text("".join(test.read_text().splitlines(keepends=True)[:TEST_ROWS]))
    return {
        "backbone": made["backbone"],
        "tasks": {"match": {**made["tasks"]["match"], "max_length": TOKENS}},
        "precision": "fp32",
    }


def distances(run: SavedRun) -> tuple[float, float]:
    """How far the steps of LoRA (at their best length) and of LoRA-Pro are from the full gradient of the weights that a
    run ended with, relative to its length; the mean over the adapted weights."""
    backbone, strategy = run.model.backbone, run.model.strategy
    layers = [layer for layer in backbone.trunk.modules() if hasattr(layer, "lora_A")]
    pairs = [Pair(e.lora_A["default"].weight, e.lora_B["default"].weight, e.scaling["default"]) for e in layers]
    weights = [layer.get_base_layer().weight.requires_grad_(True) for layer in layers]
    for pair in pairs:
        pair.a.requires_grad_(True)
        pair.b.requires_grad_(True)
    texts = ["Shares fall after the bank's report", "United beat City in the last minute"]
    inputs = dict(backbone.tokenizer(texts, padding=True, return_tensors="pt"))
    hidden = strategy.forward(backbone, inputs, [("match", slice(0, len(texts)))])
    wanted = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.mse_loss(hidden, wanted).backward()
    full = [weight.grad for weight in weights if weight.grad is not None]
    plain = [_equivalent(pair) for pair in pairs]
    adjust(pairs)
    ours = [_equivalent(pair) for pair in pairs]
    of_lora = [(g - p * (g * p).sum() / p.square().sum()).norm() / g.norm() for g, p in zip(full, plain, strict=True)]
    of_lora_pro = [(g - p).norm() / g.norm() for g, p in zip(full, ours, strict=True)]
    return float(torch.stack(of_lora).mean()), float(torch.stack(of_lora_pro).mean())


def _equivalent(pair: Pair) -> torch.Tensor:
    assert pair.a.grad is not None and pair.b.grad is not None
    return (pair.scale * (pair.b.grad @ pair.a + pair.b @ pair.a.grad)).detach()


def main() -> None:
    catalogue = Catalogue.discover()
    with tempfile.TemporaryDirectory() as place:
        common = recipe(catalogue, Path(place))
        for strategy, rate in RUNS:
            watch, began = Losses(), time.perf_counter()
            stage = {"strategy": strategy, "learning_rate": rate, "max_steps": STEPS, "eval_strategy": "no"}
            stage |= {"per_device_train_batch_size": BATCH}
            output = Path(place) / f"{strategy['type']}-{rate}"
            result = hft_core.run({**common, "stages": [stage]}, observers=[watch], output=output)
            loss, accuracy = sum(watch.losses[-20:]) / 20, result.final["test"]["match"]["accuracy"]
            print(
                f"{strategy['type']:9} rate {rate:.0e}  loss of the last 20 steps {loss:.3f}  "
                f"test accuracy {accuracy:.3f}  "
                f"{1000 * watch.seconds / STEPS:.0f} ms a step, {time.perf_counter() - began:.0f} s in all",
                flush=True,
            )
        plain, ours = distances(open_run(Path(place) / "lora-0.001", catalogue))
        print(f"distance from the full gradient: LoRA {plain:.3f}, LoRA-Pro {ours:.3f}")


if __name__ == "__main__":
    main()
