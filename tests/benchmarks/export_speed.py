"""A forward pass of one task: hft, plain transformers, and the exported graph in onnxruntime (float32, int8).

    python tests/benchmarks/export_speed.py [--rounds N] [--json PATH]

The encoder is trained for 2 steps to tell topics, and exported as `hft export` does. A pass is that of given token
ids, without tokenizing, on one thread; the four take turns. That of hft and of the graphs includes the head;
that of transformers is `AutoModel` with the checkpoint's pooler instead.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import side_by_side
import torch
import transformers
import workload
from torch import Tensor

import hft_core
from hft_core.export import onnx_graph
from hft_core.export.onnx_graph import Graph, Session

SHAPES = ((1, 16), (32, 32))
"""Texts and tokens."""
CALLS = {1: 20, 32: 2}
"""Passes in one measurement, by texts."""


def per_second(compute: Callable[[Mapping[str, Tensor]], object], inputs: Mapping[str, Tensor]) -> Callable[[], float]:
    """Measure texts a second."""
    texts = len(inputs["input_ids"])

    def measure() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for _ in range(CALLS[texts]):
                compute(inputs)
        return texts * CALLS[texts] / (time.perf_counter() - began)

    return measure


def main() -> None:
    settings = side_by_side.arguments(__doc__, rounds=7)
    torch.set_num_threads(1)
    report = side_by_side.Report("export_speed")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen, data = workload.recipe({"topic": workload.texts("short", 64)}, 2, strategy="full")
        hft_core.run(chosen, data=data, output=folder / "run")
        saved = hft_core.open_run(folder / "run", hft_core.Catalogue.discover())
        graph = Graph(saved.model, ["topic"])
        sessions = {}
        onnx_graph.write(graph, folder / "fp32.onnx")
        (folder / "int8").mkdir()
        (folder / "int8" / "model.onnx").write_bytes((folder / "fp32.onnx").read_bytes())
        onnx_graph.quantize(folder / "int8" / "model.onnx")
        for name, path in (("onnx_fp32", folder / "fp32.onnx"), ("onnx_int8", folder / "int8" / "model.onnx")):
            sessions[name] = Session(path, graph.by_task, threads=1)
        plain = transformers.AutoModel.from_pretrained(folder / "run" / "model" / "trunk", dtype=torch.float32).eval()
        for texts, tokens in SHAPES:
            ids = torch.randint(1000, 20000, (texts, tokens), generator=torch.Generator().manual_seed(0))
            known = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            inputs = {name: known.get(name, torch.zeros_like(ids)) for name in graph.inputs}
            found = side_by_side.in_turn(
                {
                    "transformers": per_second(lambda given: plain(**given), inputs),
                    "hft": per_second(lambda given: graph(*given.values()), inputs),
                    **{
                        n: per_second(lambda given, s=s: s.outputs("topic", given), inputs) for n, s in sessions.items()
                    },
                },
                settings.rounds,
            )
            report.add(
                texts=texts,
                tokens=tokens,
                **{f"{name}_texts_per_s": statistics.median(rates) for name, rates in found.items()},
                **{
                    f"{name}_is_times_transformers": side_by_side.ratio(found, name, "transformers")
                    for name in ("hft", "onnx_fp32", "onnx_int8")
                },
            )
    side_by_side.finish(report, settings.json)


if __name__ == "__main__":
    main()
