"""Define what an export format does, and what is asked of its files once they are written."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hft_core.backbone import Features, LanguageModel
from hft_core.errors import UsageError
from hft_core.head import Head
from hft_core.predict.saved_run import SavedRun


class Exported(Protocol):
    """Exported files, opened by other means than hft's."""

    def tokenizer(self, task: str) -> PreTrainedTokenizerBase:
        """Return the exported tokenizer of a task."""

    def outputs(self, task: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute what `Head.outputs` does, from trunk inputs `[batch, seq]` that are padded on the right."""

    def language(self, task: str, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the last hidden states `[batch, seq, hidden]` and the logits `[batch, seq, vocabulary]` of a task
        whose head is a language model."""


class ExportFormat(Protocol):
    """A form that tasks of a finished run are written in."""

    def check(self, saved: SavedRun, tasks: Sequence[str]) -> None:
        """Raise `UsageError` for what the form cannot hold."""

    def write(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> None:
        """Write `tasks` into the empty `folder`; what can be merged into the trunk has been.

        Raises `UsageError` for what shows only now that it cannot be written.
        """

    def open(self, saved: SavedRun, tasks: Sequence[str], folder: Path) -> Exported:
        """Open what `write` wrote."""


def has_outputs(head: Head) -> bool:
    """Tell whether a head's predictions are made of tensors (`Head.outputs`)."""
    return type(head).outputs is not Head.outputs


def is_language_model(head: Head) -> bool:
    """Tell whether a head is the trunk's own language model, or learns and writes with it."""
    return not has_outputs(head) and isinstance(head.family, LanguageModel)


def named_output(head: Head, hidden_size: int, computed: Tensor) -> dict[str, Tensor]:
    """Return what another library computed as the only one of `Head.outputs`: by its name, and without a last dimension
    of one that it does not have."""
    ids = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad():
        ((name, tensor),) = head.outputs(Features(torch.zeros(1, 2, hidden_size), ids, ids)).items()
    return {name: computed.squeeze(-1) if computed.ndim > tensor.ndim else computed}


def refuse_windows(task: str, to: str, *, but: str = "") -> NoReturn:
    """Raise `UsageError`: what is exported would read the first window of a text alone."""
    raise UsageError(
        f"task '{task}' reads long texts in windows, which --to {to} does not hold{but}: `hft predict` and `hft serve` "
        "read them"
    )


def require_packages(to: str, names: Sequence[str]) -> None:
    """Raise `UsageError` where a package that the format `to` needs is missing; its extra has the format's name."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--to {to} needs {', '.join(missing)}: pip install 'hft-core[{to}]'")


def leaving_out(task: str, tasks: Sequence[str]) -> str:
    """Return the end of a message that refuses one task: what to ask for instead."""
    rest = [name for name in tasks if name != task]
    return f": leave it out (--tasks {','.join(rest)})" if rest else ""
