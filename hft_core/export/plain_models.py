"""Compute tasks with the classes of transformers, from folders that hold whole models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hft_core.backbone import PooledOutput, TextPooling
from hft_core.export.export_format import named_output
from hft_core.predict.saved_run import SavedRun
from hft_core.runs.usage_lines import POOLED_CLASS
from hft_core.runtime.transformers_logs import quiet_transformers

POOLED_HEAD = Path("2_Dense", "model.safetensors")
"""Where sentence-transformers has a linear layer on a pooled text."""
CHOICES = "MultipleChoice"
"""The end of the classes that take `[batch, choices, seq]`."""
POOLED: dict[TextPooling, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": lambda hidden, mask: hidden[:, 0],
    "mean": lambda hidden, mask: (hidden * mask).sum(dim=1) / mask.sum(dim=1),
    "max": lambda hidden, mask: hidden.masked_fill(mask == 0, -torch.inf).amax(dim=1),
    "last": lambda hidden, mask: hidden[torch.arange(len(hidden)), mask.sum(dim=1).squeeze(-1).long() - 1],
}
"""Pool `[batch, seq, hidden]` with the mask `[batch, seq, 1]`, as the lines of a run's README do."""


class PlainModels:
    """Folders of whole models, one of which is open at a time."""

    def __init__(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self._tokenizers = {task: AutoTokenizer.from_pretrained(folder / task) for task in tasks}
        self._heads = {task: saved.model.head(task) for task in tasks}
        self._width, self._encoder_decoder = saved.model.backbone.hidden_size, saved.model.backbone.encoder_decoder
        self._open: tuple[str, Any] = ("", None)

    def tokenizer(self, task: str) -> PreTrainedTokenizerBase:
        found: PreTrainedTokenizerBase = self._tokenizers[task]
        return found

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute a task's outputs. A row is computed by itself where its class pads on the left, or (of an
        encoder-decoder) takes rows together only if they end alike."""
        alone = self.tokenizer(task).padding_side == "left" or self._encoder_decoder
        with torch.inference_mode():
            found = [self._logits(task, row) for row in (_rows(inputs) if alone else [inputs])]
        logits = found[0] if not alone else _joined(found, inputs["input_ids"].shape[1])
        return named_output(self._heads[task], self._width, logits)

    def language(self, task: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return language(self._model(task), inputs)

    def _logits(self, task: str, inputs: Mapping[str, Tensor]) -> Tensor:
        model, output = self._model(task), self._pooled(task)
        if output is not None:
            hidden = model(**inputs).last_hidden_state
            found = POOLED[output.pooling](hidden, inputs["attention_mask"].unsqueeze(-1))
            if output.weight is not None:
                head = load_file(self._folder / task / POOLED_HEAD)
                found = nn.functional.linear(found, head["linear.weight"], head.get("linear.bias"))
            return nn.functional.normalize(found, dim=1) if output.normalize else found
        if self._plain_class(task).endswith(CHOICES):
            inputs = {name: tensor.unsqueeze(1) for name, tensor in inputs.items()}
        computed = model(**inputs)
        if "start_logits" in computed:
            return torch.stack([computed.start_logits, computed.end_logits], dim=-1)
        logits: Tensor = computed.logits
        return logits

    def _model(self, task: str) -> Any:
        if self._open[0] != task:
            kind: Any = getattr(transformers, self._plain_class(task))
            with quiet_transformers():
                model = kind.from_pretrained(self._folder / task, dtype=torch.float32).eval()
            if hasattr(model.config, "use_cache"):
                model.config.use_cache = False
            self._open = (task, model)
        return self._open[1]

    def _plain_class(self, task: str) -> str:
        family = self._heads[task].family
        return POOLED_CLASS if family is None else family.plain_class

    def _pooled(self, task: str) -> PooledOutput | None:
        head = self._heads[task]
        return head.pooled_output() if head.family is None else None


def language(model: Any, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last hidden states and the logits of a model of transformers that has an LM head."""
    trunk = model.base_model if model.base_model is not model else model.get_decoder()
    hidden: list[Tensor] = []
    with (
        torch.inference_mode(),
        trunk.register_forward_hook(lambda _, given, output: hidden.append(output.last_hidden_state)),
    ):
        logits = model(**inputs).logits
    return hidden[-1], logits


def _rows(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return each row by itself, without its padding."""
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    return [{name: tensor[i : i + 1, :length] for name, tensor in inputs.items()} for i, length in enumerate(lengths)]


def _joined(rows: Sequence[Tensor], width: int) -> Tensor:
    """Join `[1, labels]`, or `[1, its length, labels]` padded with zeros to `width`."""
    if rows[0].ndim == 2:
        return torch.cat(list(rows))
    return torch.cat([nn.functional.pad(row, (0, 0, 0, width - row.shape[1])) for row in rows])
