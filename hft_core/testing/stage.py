"""A strategy driven as a stage drives it, on a tiny trunk with one linear probe a task."""

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
"""Names that begin with one another, the longer ones on either side."""
STEPS = 4
ROWS = 4
"""Of each task in a step."""
WIDTH = 24
"""Tokens of a row, padding included."""
EVALUATION = 100
"""The number of the step whose rows are for evaluation."""


class Stage:
    """One stage of a strategy. Built twice in the same way, it is the same twice.

    `after`: the strategy of the stage before, of those that the spec says it `continues`; its parts are in the trunk.
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
        """The trunk's parameters that require a gradient, by name."""
        return {name: p for name, p in self.backbone.trunk.named_parameters() if p.requires_grad}

    def shared(self) -> dict[str, nn.Parameter]:
        """Those of them that are no task's own."""
        own = {id(p) for parameters in self.private.values() for p in parameters}
        return {name: p for name, p in self.trained().items() if id(p) not in own}

    def parameters(self) -> dict[str, Tensor]:
        """A copy of every trunk parameter's values."""
        return _copy(dict(self.backbone.trunk.named_parameters()))

    def run(self, steps: Iterable[int], tasks: Sequence[str] | None = None) -> None:
        """Train `steps` on rows of `tasks` (of all, when left out)."""
        for step in steps:
            self._step(step, self.tasks if tasks is None else tasks)

    def _step(self, step: int, tasks: Sequence[str]) -> None:
        self.loss(step, tasks).backward()  # type: ignore[no-untyped-call]
        self.strategy.gradients_ready(self.backbone, step)
        self.optimizer.step()
        self.strategy.step_finished(self.backbone, step)
        self.optimizer.zero_grad(set_to_none=True)

    def loss(self, step: int, tasks: Sequence[str] | None = None) -> Tensor:
        """The loss of a step's rows, penalty included."""
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
        """The hidden states of one evaluation text of all tasks when it is one of `task`, by way of `upper` above
        `depth` layers."""
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
        """What the first `depth` layers make of the text when it is one of `task`."""
        self.backbone.trunk.eval()
        inputs, _ = batch(self.backbone, TASKS[:1], EVALUATION)
        with torch.no_grad():
            self.strategy.route(self.backbone, [(task, slice(0, ROWS))])
            found = self.backbone.lower(inputs, depth)
        return found * inputs["attention_mask"].unsqueeze(-1)

    def hidden(self, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """See `hidden`; of all tasks when left out."""
        return hidden(self.backbone, self.strategy, self.tasks if tasks is None else tasks)


def hidden(backbone: Backbone, strategy: Strategy, tasks: Sequence[str], width: int = WIDTH) -> dict[str, Tensor]:
    """By task, the hidden states of its rows in one evaluation batch of `tasks`, padding set to 0."""
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
    """`ROWS` rows of each task, the classes in turn; a task's rows do not depend on which other tasks there are."""
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
    """The strategy on the tiny trunks that it takes, at most `trunks.TRUNKS`, as the first stage or after one that it
    `continues`.

    Raises `Failed` when it takes none, with its reasons.
    """
    reasons, taken = [], 0
    for family in trunks.families(subject.catalogue):
        for after in ("", *subject.spec.continues):
            try:
                stage = Stage(subject, family, tasks, after)
            except PluginError as error:
                reasons.append(f"{family}: {error}")
                continue
            taken += 1
            yield family, stage
            break
        if taken == trunks.TRUNKS:
            return
    if not taken:
        raise Failed(f"expected a tiny trunk that the strategy takes; found {'; '.join(reasons)}")


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors whose bytes differ."""
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference between tensors of one name, relative to the largest value where that is above 1."""
    return max(float((one[n] - other[n]).abs().max() / one[n].abs().max().clamp(min=1)) for n in one)


@contextmanager
def values_of(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """The parameters have other values inside."""
    kept = _copy(parameters)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
        yield
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])


def _disturb(backbone: Backbone) -> None:
    """Move what trains in the trunk a little, as a stage would have."""
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))


def _copy(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
