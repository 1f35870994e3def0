"""Run a strategy as a stage does, on a tiny trunk with a linear probe for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hft_core.backbone import Backbone
from hft_core.errors import PluginError
from hft_core.strategy import Strategy
from hft_core.testing import toys, trunks
from hft_core.testing.check import Failed, Subject, expect

TASKS = ("ab", "a", "a-b")
"""Names that are prefixes of one another, in mixed order."""
STEPS = 4
ROWS = 4
"""Of each task in a step."""
WIDTH = 24
"""Tokens of a row, padding included."""
EVALUATION = 100
"""The step whose rows are used for evaluation."""


class Stage:
    """One stage of a strategy, deterministic.

    `after`: the strategy of the previous stage, one of the spec's `continues`, whose parts are in the trunk.
    """

    def __init__(self, subject: Subject, family: str, tasks: tuple[str, ...] = TASKS, after: str = "") -> None:
        torch.manual_seed(1)
        self.tasks, self.after = tasks, after
        self.backbone: Backbone = trunks.opened(subject.catalogue, family)
        self.built = _copy(self.backbone.trunk.state_dict())
        if after:
            before: Strategy = Subject(subject.catalogue.get("strategy", after), subject.catalogue).build()
            before.apply(self.backbone, tasks)
            _disturb(self.backbone)
        self.found = _copy(self.backbone.trunk.state_dict())
        self.strategy: Strategy = subject.build()
        self.strategy.apply(self.backbone, tasks)
        self.private = self.strategy.private(self.backbone)
        factors = self.strategy.rate_factors(self.backbone)
        self.probes = nn.ModuleDict({task: nn.Linear(self.backbone.hidden_size, 2) for task in tasks})
        groups: list[dict[str, Any]] = [
            {"params": [p], "lr": 0.01 * factors.get(p, 1.0)} for p in self.trained().values()
        ]
        self.optimizer = torch.optim.AdamW(
            [*groups, {"params": self.probes.parameters(), "lr": 0.01}], weight_decay=0.1
        )
        self.strategy.begin(self.backbone, STEPS)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the trunk's parameters that require a gradient, by name."""
        return {name: p for name, p in self.backbone.trunk.named_parameters() if p.requires_grad}

    def shared(self) -> dict[str, nn.Parameter]:
        """Return those of them that are not private to a task."""
        own = {id(p) for parameters in self.private.values() for p in parameters}
        return {name: p for name, p in self.trained().items() if id(p) not in own}

    def parameters(self) -> dict[str, Tensor]:
        """Copy the values of all trunk parameters."""
        return _copy(dict(self.backbone.trunk.named_parameters()))

    def run(self, steps: Iterable[int], tasks: Sequence[str] | None = None) -> None:
        """Train `steps` on rows of `tasks`, all by default."""
        for step in steps:
            self._step(step, self.tasks if tasks is None else tasks)

    def _step(self, step: int, tasks: Sequence[str]) -> None:
        self.loss(step, tasks).backward()  # type: ignore[no-untyped-call]
        self.strategy.gradients_ready(self.backbone, step)
        self.optimizer.step()
        self.strategy.step_finished(self.backbone, step)
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, step: int, tasks: Sequence[str] | None = None) -> Tensor:
        """Compute the loss of a step's rows, including the penalty."""
        torch.manual_seed(step)
        self.backbone.trunk.train(bool(self.trained()))
        self.strategy.step_started(self.backbone, step)
        inputs, rows = batch(self.backbone, self.tasks if tasks is None else tasks, step)
        hidden = self.strategy.forward(self.backbone, inputs, rows)
        losses = [self._loss(task, hidden[place], inputs["attention_mask"][place]) for task, place in rows]
        penalty = self.strategy.penalty(self.backbone)
        total = torch.stack(losses).sum()
        return total if penalty is None else total + penalty

    def _loss(self, task: str, hidden: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1) / mask.sum(dim=1)[:, None, None]
        classes = torch.arange(len(hidden)) % 2
        return functional.cross_entropy(self.probes[task]((hidden * weights).sum(dim=1)), classes)

    def hidden_as(self, task: str, depth: int = 0) -> Tensor:
        """Return the hidden states of the evaluation texts when routed as rows of `task`; with `depth`, by `lower` and
        `upper`."""
        self.backbone.trunk.eval()
        inputs, rows = batch(self.backbone, TASKS[:1], EVALUATION)[0], [(task, slice(0, ROWS))]
        with torch.no_grad():
            if depth:
                lower = self.backbone.lower(inputs, depth)
                found = self.strategy.upper(self.backbone, lower, inputs, rows, depth)
            else:
                found = self.strategy.forward(self.backbone, inputs, rows)
        return found * inputs["attention_mask"].unsqueeze(-1)

    def lower_as(self, task: str, depth: int) -> Tensor:
        """Return the hidden states after the first `depth` layers, of the same texts routed as rows of `task`."""
        self.backbone.trunk.eval()
        inputs, _ = batch(self.backbone, TASKS[:1], EVALUATION)
        with torch.no_grad():
            self.strategy.route(self.backbone, [(task, slice(0, ROWS))])
            found = self.backbone.lower(inputs, depth)
        return found * inputs["attention_mask"].unsqueeze(-1)

    def hidden(self, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """See the function `hidden`; all tasks by default."""
        return hidden(self.backbone, self.strategy, self.tasks if tasks is None else tasks)


def hidden(backbone: Backbone, strategy: Strategy, tasks: Sequence[str], width: int = WIDTH) -> dict[str, Tensor]:
    """Return by task the hidden states of its rows in one evaluation batch of `tasks`, zero at padding."""
    backbone.trunk.eval()
    with torch.no_grad():
        inputs, rows = batch(backbone, tasks, EVALUATION, width)
        states = strategy.forward(backbone, inputs, rows)
    wanted = (*inputs["input_ids"].shape, backbone.hidden_size)
    expect(tuple(states.shape) == wanted, f"hidden states of the shape {wanted}", tuple(states.shape))
    states = states * inputs["attention_mask"].unsqueeze(-1)
    return {task: states[place] for task, place in rows}


def batch(
    backbone: Backbone, tasks: Sequence[str], seed: int, width: int = WIDTH
) -> tuple[dict[str, Tensor], list[tuple[str, slice]]]:
    """Make `ROWS` rows of each task, of alternating classes; a task's rows do not depend on the other tasks."""
    texts: list[str] = []
    rows = []
    for task in tasks:
        random = np.random.default_rng((seed, TASKS.index(task)))
        rows.append((task, slice(len(texts), len(texts) + ROWS)))
        texts += [toys.sentence(i % 2, random) for i in range(ROWS)]
    encoded = backbone.tokenizer(
        texts, padding="max_length", max_length=width, padding_side="right", return_tensors="pt"
    )
    return dict(encoded), rows


def stages(subject: Subject, tasks: tuple[str, ...] = TASKS) -> Iterator[tuple[str, Stage]]:
    """Build the strategy on the tiny trunks that it accepts, at most `trunks.TRUNKS`, as the first stage or after one
    that it `continues`.

    Raises `Failed` when it accepts none, with the reasons.
    """
    reasons, accepted = [], 0
    for family in trunks.families(subject.catalogue):
        for after in ("", *subject.spec.continues):
            try:
                stage = Stage(subject, family, tasks, after)
            except PluginError as error:
                reasons.append(f"{family}: {error}")
                continue
            accepted += 1
            yield family, stage
            break
        if accepted == trunks.TRUNKS:
            return
    if not accepted:
        raise Failed(f"expected a tiny trunk that the strategy takes; found {'; '.join(reasons)}")


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Name the tensors whose bytes differ."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Return the largest difference between tensors of one name, relative to the largest value if that is above 1."""
    return max(float((one[n] - other[n]).abs().max() / one[n].abs().max().clamp(min=1)) for n in one)


@contextmanager
def values_of(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give the parameters other values within the block."""
    kept = _copy(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
        yield
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])


def _disturb(backbone: Backbone) -> None:
    """Change the trainable parameters of the trunk a little, as a stage would have."""
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


def _copy(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
