from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from hft_core.recipe.stage import Stage
from hft_core.training.lr_schedule import schedule

NAMES = get_args(Stage.model_fields["lr_scheduler_type"].annotation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 7, 300])
def test_equals_transformers_get_scheduler(name: str, steps: int) -> None:
    for warmup in {0, 1, 4, steps // 10, steps - 1}:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
        ours = schedule(name, warmup, steps)
        for step in range(steps + 2):
            try:
                expected = theirs(step)
            except ZeroDivisionError:
                # transformers' polynomial has no value where the warm-up takes all steps and they are over.
                assert warmup >= steps and name == "polynomial"
                continue
            assert ours(step) == expected
