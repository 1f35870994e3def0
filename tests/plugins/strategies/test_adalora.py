"""AdaLoRA: the budget falls with the steps, and a resumed stage ends as an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModel

from hft_core.errors import PluginError
from hft_plugins.backbones import encoder
from hft_plugins.backbones.options import EncoderOptions
from hft_plugins.strategies.peft import adalora

STEPS = 6


class Run:
    """A stage of a few steps on one batch."""

    def __init__(self, models: Any, toys: Any, **options: Any) -> None:
        self.backbone = encoder.build(EncoderOptions(model=str(models["bert"]), dropout=0.0))
        rows = toys.rows(4)
        self.inputs = dict(self.backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt"))
        self.strategy = adalora.build(
            adalora.Options(init_r=4, target_r=2, target_modules=("query", "value"), **options)
        )
        torch.manual_seed(0)
        self.strategy.apply(self.backbone, ("t",))
        self.strategy.begin(self.backbone, STEPS)
        self.parameters = [p for p in self.backbone.trunk.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(self.parameters, lr=0.1)

    def hidden(self) -> Tensor:
        return self.strategy.forward(self.backbone, self.inputs, [("t", slice(0, 4))])

    def step(self, step: int) -> None:
        hidden = self.hidden()
        penalty = self.strategy.penalty(self.backbone)
        assert penalty is not None
        ((hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).mean() + penalty).backward()
        self.optimizer.step()
        self.strategy.step_finished(self.backbone, step)
        self.optimizer.zero_grad()

    def ranks(self) -> int:
        """Singular values that are not zero, over all layers."""
        return sum(int((p != 0).sum()) for n, p in self.backbone.trunk.named_parameters() if ".lora_E." in n)


def test_the_ranks_fall_to_the_target_and_stay_there(models: Any, toys: Any) -> None:
    run = Run(models, toys, tfinal=2)
    ranks = []
    for step in range(STEPS):
        run.step(step)
        ranks.append(run.ranks())
    layers = 4
    assert ranks[0] == 4 * layers
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[-2:] == [2 * layers, 2 * layers]


def test_a_step_that_is_skipped_does_not_leave_the_ranks_open(models: Any, toys: Any) -> None:
    run = Run(models, toys, tfinal=2)
    for step in (0, 1, 2, 3, 5):  # 4 is the one in which they become final
        run.step(step)
    assert run.ranks() == 2 * 4


def test_a_step_in_which_nothing_is_learned_changes_nothing(models: Any, toys: Any) -> None:
    run = Run(models, toys)
    run.step(0)
    before = run.strategy.state()
    run.strategy.step_finished(run.backbone, 1)
    after = run.strategy.state()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_a_stage_that_is_resumed_ends_with_the_same_weights(stopped: int, models: Any, toys: Any) -> None:
    whole, first, second = (Run(models, toys, tfinal=2) for _ in range(3))
    for step in range(STEPS):
        whole.step(step)
    for step in range(stopped):
        first.step(step)
    with torch.no_grad():
        for mine, saved in zip(second.parameters, first.parameters, strict=True):
            mine.copy_(saved)
    second.strategy.load_state({name: tensor.clone() for name, tensor in first.strategy.state().items()})
    for step in range(stopped, STEPS):
        second.step(step)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))


def test_earlier_weights_can_be_saved_after_the_ranks_fell_further(models: Any, toys: Any, tmp_path: Path) -> None:
    """The best weights of a stage are put back at its end, while the allocator has gone on."""
    run = Run(models, toys, tfinal=2)
    run.step(0)
    best = [p.detach().clone() for p in run.parameters]
    for step in range(1, STEPS):
        run.step(step)
    with torch.no_grad():
        for parameter, tensor in zip(run.parameters, best, strict=True):
            parameter.copy_(tensor)
        expected = run.hidden()
        run.strategy.save_adapter(run.backbone, "t", tmp_path, str(models["bert"]), "", {})
        plain = PeftModel.from_pretrained(AutoModel.from_pretrained(models["bert"]), tmp_path).eval()
        torch.testing.assert_close(plain(**run.inputs).last_hidden_state, expected, atol=1e-6, rtol=0)


def test_a_stage_too_short_for_the_schedule_is_refused(models: Any, toys: Any) -> None:
    with pytest.raises(PluginError, match="strategy 'adalora': the trunk moves in 6 steps, and tinit 4 and tfinal 2"):
        Run(models, toys, tinit=4, tfinal=2)


def test_a_target_above_the_first_rank_is_refused() -> None:
    with pytest.raises(PluginError, match=r"strategy 'adalora': .* target_r 4 must be below init_r 4"):
        adalora.build(adalora.Options(init_r=4, target_r=4))
