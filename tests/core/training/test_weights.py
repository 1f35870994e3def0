from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hft_core.combiner import Combiner
from hft_core.errors import RunError
from hft_core.training import weights


class Scaled(Combiner):
    """A combiner with a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__(("a",))
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("seen", torch.zeros(3))


def made() -> tuple[nn.ModuleDict, Scaled, torch.optim.Optimizer]:
    model = nn.ModuleDict({"trunk": nn.Linear(3, 3), "head": nn.Linear(3, 2), "still": nn.Linear(2, 2)})
    combiner = Scaled()
    optimizer = torch.optim.SGD([*model["trunk"].parameters(), *model["head"].parameters(), combiner.scale], lr=1.0)
    return model, combiner, optimizer


def test_the_state_is_what_the_optimizer_moves_and_all_of_the_combiner() -> None:
    model, combiner, optimizer = made()
    model["trunk"].requires_grad_(False)  # held still for the moment
    assert set(weights.trained_state(model, combiner, optimizer)) == {
        "model.trunk.weight",
        "model.trunk.bias",
        "model.head.weight",
        "model.head.bias",
        "combiner.scale",
        "combiner.seen",
    }


def test_tied_parameters_are_saved_once() -> None:
    model, combiner, optimizer = made()
    model["head"].weight = model["trunk"].weight
    state = weights.trained_state(model, combiner, optimizer)
    assert "model.trunk.weight" in state
    assert "model.head.weight" not in state


def test_what_was_saved_comes_back_bit_by_bit_into_the_same_tensors(tmp_path: Path) -> None:
    model, combiner, optimizer = made()
    path = tmp_path / "deep" / "best.safetensors"
    state = weights.trained_state(model, combiner, optimizer)
    before = {name: tensor.detach().clone() for name, tensor in state.items()}
    weights.save(path, state)
    with torch.no_grad():
        for tensor in state.values():
            tensor.add_(1.0)
    weights.put(load_file(path), weights.trained_state(model, combiner, optimizer))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert all(p.requires_grad for p in model["trunk"].parameters())


def test_a_file_that_could_not_be_written_leaves_the_one_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.safetensors"
    weights.save(path, {"a": torch.ones(4)})
    content = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(RunError, match="no space"):
        weights.save(path, {"a": torch.zeros(4)})
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
