"""Export tasks as one ONNX graph, with what a program without hft needs beside it.

`model.onnx`, `tokenizer.json` (and what transformers writes with it), `model.json` (which outputs are whose, labels,
lengths, activations) and a `README.md` whose lines predict with onnxruntime and tokenizers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hft_core.errors import UsageError
from hft_core.export import onnx_graph, onnx_readme
from hft_core.export.export_format import has_outputs, leaving_out, refuse_windows, require_packages
from hft_core.export.onnx_graph import Graph, Session
from hft_core.head import Head
from hft_core.predict.saved_run import SavedRun
from hft_core.runs import assembly
from hft_core.runtime.files import read_json, write_json

GRAPH_FILE, FACTS_FILE, TOKENIZER_FILE, README = "model.onnx", "model.json", "tokenizer.json", "README.md"
FORMAT = 1
NEEDED = ("onnx", "onnxscript", "onnxruntime")
ACTIVATIONS = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
"""What makes answers of logits, by the problem that a head writes into its configuration."""


class OnnxFolder:
    """One graph for all tasks."""

    def __init__(self, int8: bool = False) -> None:
        self.int8 = int8

    def check(self, saved: SavedRun, tasks: Sequence[str]) -> None:
        """Raise `UsageError` for what cannot be one graph, and where a package is missing."""
        require_packages("onnx", NEEDED)
        model = saved.model
        if model.backbone.encoder_decoder:
            raise UsageError("--to onnx is for encoders and decoders, and this run's backbone is an encoder-decoder")
        for task in tasks:
            if not has_outputs(model.head(task)):
                name = saved.resolved.heads[task].entry.name
                raise UsageError(
                    f"task '{task}': its head '{name}' has no outputs that a graph could compute (it generates text, "
                    f"or has a loss alone){leaving_out(task, tasks)}"
                )
            if model.head(task).predicts_units and model.head(task).text_windows() is None:
                refuse_windows(task, "onnx", but=" of pairs of texts or tagged words")
        if model.strategy.routes_rows and len(tasks) > 1:
            raise UsageError(
                "the run's strategy computes other hidden states for each task, and a graph has one pass for all: "
                f"export them one by one (--tasks {tasks[0]})"
            )
        if not model.backbone.tokenizer.is_fast:
            raise UsageError(
                "--to onnx needs a tokenizer in the format of the tokenizers library, and this run's is not"
            )

    def write(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        """Write all files. Raises `UsageError` where the model cannot be a graph."""
        graph = Graph(saved.model, tasks)
        onnx_graph.write(graph, folder / GRAPH_FILE)
        if self.int8:
            onnx_graph.quantize(folder / GRAPH_FILE)
        saved.model.backbone.tokenizer.save_pretrained(folder)
        facts = self._facts(saved, graph)
        write_json(folder / FACTS_FILE, facts)
        (folder / README).write_text(onnx_readme.text(facts), encoding="utf-8")

    def open(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> OnnxExport:
        return OnnxExport(folder)

    def _facts(self, saved: SavedRun, graph: Graph) -> dict[str, Any]:
        tokenizer = saved.model.backbone.tokenizer
        return {
            "format": FORMAT,
            "model": GRAPH_FILE,
            "int8": self.int8,
            "tokenizer": TOKENIZER_FILE,
            "inputs": graph.inputs,
            "padding": {"id": tokenizer.pad_token_id, "token": tokenizer.pad_token, "side": "right"},
            "tasks": {task: _task_facts(saved, graph, task) for task in graph.tasks},
        }


class OnnxExport:
    """An exported graph, opened with onnxruntime and the tokenizer beside it."""

    def __init__(self, folder: Path) -> None:
        facts = read_json(folder / FACTS_FILE)
        names = {task: found["outputs"] for task, found in facts["tasks"].items()}
        self._session = Session(folder / facts["model"], names)
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)

    def tokenizer(self, task: str) -> PreTrainedTokenizerBase:
        return self._tokenizer

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._session.outputs(task, inputs)

    def language(self, task: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("a graph holds no language models")


def _task_facts(saved: SavedRun, graph: Graph, task: str) -> dict[str, Any]:
    head, names = saved.model.head(task), graph.by_task[task]
    config = head.config()
    labels = [name for _, name in sorted((config.get("id2label") or {}).items())]
    length = onnx_graph.EXAMPLE_LENGTH
    by_token = any(len(shape) > 1 and shape[1] == length for shape in (graph.shapes[name] for name in names.values()))
    activation = ACTIVATIONS.get(str(config.get("problem_type")), "softmax" if by_token and labels else "none")
    decision, limit = head.decision(), assembly.max_length(saved.resolved, task, saved.model)
    return {
        "head": saved.resolved.heads[task].entry.name,
        "columns": [column.name for column in head.columns() if not column.target],
        "texts": _texts(head, names),
        "max_length": limit,
        "window": _window(saved, task, limit),
        "outputs": names,
        "per": "token" if by_token else "text",
        "activation": activation,
        "labels": labels,
        "temperature": decision.temperature,
        "thresholds": list(decision.thresholds),
    }


def _window(saved: SavedRun, task: str, limit: int) -> dict[str, Any] | None:
    """Return how a text of more than `limit` tokens is divided and its windows' outputs are pooled; None where it is
    cut."""
    found = saved.model.head(task).text_windows()
    if found is None:
        return None
    room = limit - saved.model.backbone.tokenizer.num_special_tokens_to_add()
    return {"stride": min(found.stride, room // 2), "most": found.most, "pool": found.pool}


def _texts(head: Head, outputs: Mapping[str, str]) -> int:
    """Return how many texts of a row are one sequence of the graph; 0 where a row is more than one sequence, or no
    text as it stands."""
    read = [column for column in head.columns() if not column.target]
    if "embedding" in outputs:  # of each text by itself
        return 1
    return len(read) if all(column.kind == "text" and not column.many for column in read) else 0
