"""The model that a stage trains: one trunk under a strategy, and a head for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone, Features
from hft_core.batching.batch import Batch, CachedHidden, Segment, UniqueRows
from hft_core.head import Head
from hft_core.model.activation_store import Store
from hft_core.model.frozen_layers import NOTHING, UNKNOWN
from hft_core.strategy import Strategy


class _Heads(nn.ModuleDict):
    """Heads by task, whatever the tasks are called (a plain ModuleDict refuses `type` and other names of its own)."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        if module is not None:
            self._modules[name] = module


class HybridModel(nn.Module):
    """A trunk shared by the heads of all tasks; each row goes through the trunk once, and then to its task's head."""

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk = backbone.trunk
        self.heads = _Heads(heads)
        self.strategy = Strategy()
        """The one that was last applied to the trunk: passes through the trunk go by it."""
        self.frozen = NOTHING
        """What stands still under it."""
        self.stored: Store | None = None
        """What the frozen part made of rows that come again."""
        self.compiled = False
        """Its trunk's layers go by compiled code while they train."""
        self.one_pass = False
        """Each task's gradients of the trunk are known from one backward pass over the rows of all (see
        `hft_core.gradients.one_pass`)."""
        self.common = UNKNOWN
        """The layers that tasks have in common."""

    def hidden(self, batch: Batch) -> Tensor:
        """The trunk's last hidden states of a batch."""
        if batch.cached is not None:
            return self.upper(batch, self._completed(batch.inputs, batch.cached))
        if batch.unique_rows is not None and self.common.depth and self.common.strategy is self.strategy:
            return self.above_common(batch, batch.unique_rows, self.common.depth)
        return self.strategy.forward(self.backbone, batch.inputs, batch.task_rows)

    def above_common(self, batch: Batch, texts: UniqueRows, depth: int) -> Tensor:
        """The same, with each text computed once in the first `depth` layers."""
        once = {name: tensor.index_select(0, texts.first) for name, tensor in batch.inputs.items()}
        lower = self.backbone.lower(once, depth).index_select(0, texts.of_row)
        return self.strategy.upper(self.backbone, lower, batch.inputs, batch.task_rows, depth)

    def upper(self, batch: Batch, lower: Tensor) -> Tensor:
        """The same, from what the frozen part made of the batch, `[batch, seq, hidden]`."""
        return self.strategy.upper(self.backbone, lower, batch.inputs, batch.task_rows, self.frozen.depth)

    def _completed(self, inputs: Mapping[str, Tensor], lower: CachedHidden) -> Tensor:
        """What the frozen part makes of a batch, that of the rows not known before computed."""
        if not len(lower.missing):
            return lower.hidden
        with torch.no_grad():
            of_missing = {name: tensor[lower.missing] for name, tensor in inputs.items()}
            made = self.backbone.lower(of_missing, self.frozen.depth)
            return lower.hidden.index_copy(0, lower.missing, made.to(lower.hidden.dtype))

    def with_stored(self, batch: Batch) -> Batch:
        """The batch, with what is stored of it; before it is moved to a device."""
        return batch if self.stored is None else self.stored.put_into(batch)

    def segments(self, batch: Batch, hidden: Tensor) -> list[tuple[Segment, Features]]:
        """What each segment's head sees of the trunk."""
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        return [(s, Features(hidden[s.rows], ids[s.rows], mask[s.rows])) for s in batch.segments]

    def head(self, task: str) -> Head:
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def train(self, mode: bool = True) -> HybridModel:
        """As usual, but a trunk in which nothing trains, or the part of it below what does, stays in evaluation mode:
        its dropout would only add noise."""
        super().train(mode)
        self.frozen.settle()
        if not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            self.trunk.eval()
        return self

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode; afterwards, in the mode it was in."""
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    # --- what trains

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What trains in the trunk."""
        return [parameter for parameter in self.trunk.parameters() if parameter.requires_grad]

    def shared_parameters(self) -> list[nn.Parameter]:
        """What trains in the trunk and belongs to no task alone."""
        private = {id(p) for parameters in self.strategy.private(self.backbone).values() for p in parameters}
        return [parameter for parameter in self.trunk_parameters() if id(parameter) not in private]

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        """The parameters of a task's head, without those it shares with (has tied to) the trunk."""
        shared = {id(parameter) for parameter in self.trunk.parameters()}
        return [parameter for parameter in self.heads[task].parameters() if id(parameter) not in shared]

    def head_parameters(self, tasks: Iterable[str]) -> list[nn.Parameter]:
        """What trains in the heads of `tasks`, each parameter once."""
        found = {id(p): p for task in tasks for p in self.own_parameters(task) if p.requires_grad}
        return list(found.values())

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """What trains in a task's head and in its private part of the trunk."""
        private = self.strategy.private(self.backbone).get(task, ())
        return [*self.head_parameters([task]), *(parameter for parameter in private if parameter.requires_grad)]

    def choose_heads(self, tasks: Iterable[str]) -> None:
        """Let the heads of `tasks` train and the others stand still; after the strategy was applied to the trunk.

        A head that came with the trunk trains only where the whole trunk does.
        """
        chosen = set(tasks)
        whole_trunk = all(parameter.requires_grad for parameter in self.trunk.parameters())
        for task in sorted(self.heads, key=lambda name: name in chosen):  # two tasks may have one LM head
            trains = task in chosen and (whole_trunk or not self.head(task).part_of_trunk)
            for parameter in self.own_parameters(task):
                parameter.requires_grad_(trains)
