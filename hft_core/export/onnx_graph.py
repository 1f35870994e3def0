"""Write a model as one ONNX graph: one pass through the trunk, and the outputs of each task's head by name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hft_core.backbone import Features
from hft_core.errors import UsageError
from hft_core.model.hybrid import HybridModel
from hft_core.plugins.entries import one_line

EXAMPLE_ROWS, EXAMPLE_LENGTH = 3, 7
"""The batch that the model is traced with: torch.export takes sizes of 0 and 1 for constants."""
MOST_ROWS = 2**16
QUANTIZED = ("MatMul", "Gemm")
"""Operators whose constant weights become int8. Embeddings stay in float32: one scale for a whole table costs more
answers than its size is worth."""


class Graph(nn.Module):
    """All that is exported: trunk inputs `[batch, length]` → the outputs of all heads, in the order of `names`."""

    def __init__(self, model: HybridModel, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.tasks = model, tuple(tasks)
        self.inputs = input_names(model)
        with torch.no_grad():
            found = {task: model.head(task).outputs(self._features(self.example())) for task in self.tasks}
        self.by_task = {task: {name: f"{task}.{name}" for name in outputs} for task, outputs in found.items()}
        """The graph's name of each output, by task and the head's own name."""
        self.shapes = {
            f"{task}.{name}": tensor.shape for task, outputs in found.items() for name, tensor in outputs.items()
        }

    @property
    def names(self) -> list[str]:
        return list(self.shapes)

    def example(self) -> tuple[Tensor, ...]:
        """Return inputs of a few rows, one of them padded."""
        tokenizer = self.model.backbone.tokenizer
        ids = torch.full((EXAMPLE_ROWS, EXAMPLE_LENGTH), int(tokenizer.unk_token_id or 0))
        mask = torch.ones_like(ids)
        ids[1, EXAMPLE_LENGTH - 2 :], mask[1, EXAMPLE_LENGTH - 2 :] = int(tokenizer.pad_token_id), 0
        known = {"input_ids": ids, "attention_mask": mask}
        return tuple(known.get(name, torch.zeros_like(ids)) for name in self.inputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        features = self._features(inputs)
        return tuple(tensor for task in self.tasks for tensor in self.model.head(task).outputs(features).values())

    def _features(self, inputs: Sequence[Tensor]) -> Features:
        given = dict(zip(self.inputs, inputs, strict=True))
        rows = [(task, slice(None)) for task in self.tasks]
        hidden = self.model.strategy.forward(self.model.backbone, given, rows)
        return Features(hidden, given["input_ids"], given["attention_mask"])


def input_names(model: HybridModel) -> list[str]:
    """Return the inputs that the trunk reads, as its tokenizer gives them."""
    wanted = model.backbone.tokenizer.model_input_names
    return [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in wanted]


def write(graph: Graph, path: Path) -> None:
    """Write the graph to `path`, for batches of any size and texts of any length up to the trunk's limit.

    Raises `UsageError` where torch.onnx cannot express what the trunk or a head computes.
    """
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    length = torch.export.Dim("length", min=1, max=graph.model.backbone.max_length)
    graph.eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                graph,
                graph.example(),
                dynamo=True,
                input_names=graph.inputs,
                output_names=graph.names,
                dynamic_shapes=(tuple({0: batch, 1: length} for _ in graph.inputs),),
                verbose=False,
            )
            assert program is not None
            program.save(str(path))
    except Exception as error:  # whatever the code of a model raises when it is traced
        trunk = type(graph.model.trunk).__name__
        raise UsageError(f"{trunk} cannot be exported to ONNX: {one_line(error)[:300]}") from error


def quantize(path: Path) -> None:
    """Replace the float32 graph at `path` by one whose trunk and heads multiply int8 weights (onnxruntime's dynamic
    quantization): a scale for each column of a weight, and one for all inputs of a product at each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact = path.with_name(f"exact-{path.name}")
    for part in list(path.parent.glob(f"{path.name}*")):
        part.rename(part.with_name(f"exact-{part.name}"))
    with _quiet():
        quantize_dynamic(
            exact,
            path,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,  # seven bits: processors without VNNI add pairs of products in 16 bits
            weight_type=QuantType.QInt8,
        )
    for part in path.parent.glob(f"{exact.name}*"):
        part.unlink()


class Session:
    """A graph as onnxruntime computes it on the CPU."""

    def __init__(self, path: Path, names: Mapping[str, Mapping[str, str]], threads: int = 0) -> None:
        """`names`: the graph's name of each output, by task and the head's own name; `threads`: 0 for all cores."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = names
        self._inputs = [given.name for given in self._session.get_inputs()]

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute a task's outputs, by the head's own names, from trunk inputs `[batch, length]`."""
        names = self._names[task]
        arrays = self._session.run(list(names.values()), {name: inputs[name].numpy() for name in self._inputs})
        return dict(zip(names, map(torch.from_numpy, arrays), strict=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter and the quantizer say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
