"""Check that heads and adapters can be saved and read again: in a temporary folder, without the trunk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hft_core.head import Head
from hft_core.model.hybrid import HybridModel
from hft_core.trial.findings import Failed


def check_reopening(model: HybridModel, tasks: Sequence[str]) -> None:
    """Raise `Failed` where what is read is not what was saved. The model may have been changed by reading."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="hft-trial-")
    except OSError:  # no place for temporary files is no fault of the recipe
        return
    with temporary as name:
        for task in tasks:
            head = model.head(task)
            try:
                json.dumps(head.facts, allow_nan=False)
                _reopen(model, task, Path(name) / task)
            except Failed:
                raise
            except Exception as error:  # plugins fail in any way
                reason = " ".join(str(error).split())[:200]
                raise Failed(
                    f"task '{task}' cannot be saved and read again ({type(error).__name__}: {reason})"
                ) from error


def _reopen(model: HybridModel, task: str, folder: Path) -> None:
    head, strategy, backbone = model.head(task), model.strategy, model.backbone
    saved = _state(head)
    if strategy.adapter:
        plain_class = head.family.plain_class if head.family is not None else ""
        state = saved if head.family is not None else {}
        strategy.save_adapter(backbone, task, folder, backbone.source, plain_class, state)
        found = strategy.load_adapter(backbone, task, folder, state)
        _compare(task, {name: state[name] for name in found}, found)
        return
    folder.mkdir()
    save_file({name: _plain(tensor) for name, tensor in saved.items()}, folder / "head.safetensors")
    found = load_file(folder / "head.safetensors")
    _compare(task, saved, found)
    if head.family is not None and saved:
        head.family.load_plain_state(head.import_state(found))
        _compare(task, saved, _state(head))


def _state(head: Head) -> dict[str, Tensor]:
    """Return a head's weights as they are saved; none of a pre-trained LM head, which is large and came from a file."""
    if head.part_of_trunk:
        return {}
    if head.family is not None:
        return head.export_state(head.family.plain_state(tied=True))
    return head.state_dict()


def _compare(task: str, saved: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wrong = [n for n in saved if n not in found or not torch.equal(_plain(saved[n]), _plain(found[n]))]
    if wrong:
        raise Failed(f"of task '{task}', {wrong[0]} is another weight after it was saved and read again")


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous().clone()
