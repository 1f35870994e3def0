"""The losses of a step's batches, including those that compare the rows of the whole step with one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hft_core.backbone import Features
from hft_core.batching.batch import Batch, Segment
from hft_core.device.clock import FORWARD
from hft_core.device.distributed import Machine
from hft_core.head import Targets
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class _Joint:
    """A joint loss of a divided step: its value as a function of what the head itself trains (this process's share of
    it), and its gradient with respect to the embeddings `[examples, d]`, by batch."""

    loss: Tensor
    gradients: dict[int, Tensor]


@dataclass(frozen=True)
class Ahead:
    """What a pass without gradients found."""

    sums: dict[str, Tensor]
    """Each task's loss over this process's rows of the step."""
    joint: dict[str, _Joint]


class Forward:
    """The batches of one step, through the trunk and the heads.

    A joint loss of a step that is divided into batches is computed from the embeddings of all of them, and each batch
    then adds `embedding · gradient`: the gradient of the whole, with the memory of one batch (GradCache, Gao et al.
    2021, arXiv:2101.06983).
    """

    def __init__(
        self, model: HybridModel, batches: Sequence[Batch], machine: Machine, plan: ExecutionPlan = PLAIN
    ) -> None:
        self.model, self.batches, self.machine, self.plan = model, batches, machine, plan
        counts, appearances = dict.fromkeys(model.heads, 0), dict.fromkeys(model.heads, 0)
        for segment in (segment for batch in batches for segment in batch.segments):
            counts[segment.task] += segment.targets.count
            appearances[segment.task] += 1
        self.counts = machine.group.all_reduce_counts(counts)
        """Targets of each task in the whole step, those of other processes included."""
        appearances = machine.group.all_reduce_counts(appearances)
        self._divided = tuple(task for task, n in appearances.items() if n > 1 and model.head(task).joint)
        self._joint: dict[str, _Joint] = {}
        if self._divided:
            self._joint = self.ahead.joint

    def hidden(self, batch: Batch) -> Tensor:
        """The trunk's last hidden states of the batch."""
        with self.machine.clock.part(FORWARD), self.machine.autocast():
            return self.model.hidden(batch, self.plan)

    def sums(self, batch: Batch, hidden: Tensor | None = None) -> dict[str, Tensor]:
        """What the batch adds to each task's loss, summed over its targets; from `hidden` where that is known."""
        return self.sums_of(self.model.segments(batch, self.hidden(batch) if hidden is None else hidden))

    def sums_of(self, seen: Sequence[tuple[Segment, Features]]) -> dict[str, Tensor]:
        """The same, of segments with what their heads see of the trunk."""
        sums: dict[str, Tensor] = {}
        with self.machine.clock.part(FORWARD), self.machine.autocast():
            for segment, features in seen:
                loss = self._loss(segment, features)
                sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        return sums

    def _loss(self, segment: Segment, features: Features) -> Tensor:
        head = self.model.head(segment.task)
        if segment.task not in self._divided:
            return head.loss(features, segment.targets)
        joint = self._joint[segment.task]
        gradient = joint.gradients[id(segment)]
        along = (head.embed(features).float() * gradient).sum()
        first = next(iter(joint.gradients)) == id(segment)
        return along - along.detach() + (joint.loss if first else 0.0)

    @cached_property
    def ahead(self) -> Ahead:
        """The step without gradients, with the dropout that the passes to come will have; before the first of them."""
        sums: dict[str, Tensor] = {}
        embeddings: dict[str, list[tuple[Segment, Tensor]]] = {task: [] for task in self._divided}
        kept = random_state_kept(self.machine.device)
        with self.machine.clock.part(FORWARD), kept, torch.no_grad(), self.machine.autocast():
            for batch in self.batches:
                for segment, features in self.model.segments(batch, self.model.hidden(batch, self.plan)):
                    head = self.model.head(segment.task)
                    if segment.task in self._divided:
                        embeddings[segment.task].append((segment, head.embed(features).float()))
                        continue
                    loss = self._loss(segment, features)
                    sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        joint = {task: self._whole(task, parts) for task, parts in embeddings.items()}
        return Ahead(sums | {task: each.loss.detach() for task, each in joint.items() if each.gradients}, joint)

    def _whole(self, task: str, parts: Sequence[tuple[Segment, Tensor]]) -> _Joint:
        """The joint loss of all embeddings of a step, of which this process has `parts`."""
        names = sorted({name for segment, _ in parts for name in segment.targets.tensors})
        mine = {name: torch.cat([segment.targets.tensors[name] for segment, _ in parts]).cpu() for name in names}
        embedded = torch.cat([embedding for _, embedding in parts]).cpu() if parts else None
        gathered = self.machine.group.all_gather((embedded, mine))
        everyone = [(e, t) for e, t in gathered if e is not None]
        device = self.machine.device
        targets = Targets(
            self.counts[task],
            {name: torch.cat([tensors[name] for _, tensors in everyone]).to(device) for name in everyone[0][1]},
        )
        whole = torch.cat([embeddings for embeddings, _ in everyone]).to(device).requires_grad_()
        head = self.model.head(task)
        with torch.enable_grad():
            loss = head.joint_loss(whole, targets)
            (gradient,) = torch.autograd.grad(loss, whole, retain_graph=True)
            own = head.joint_loss(whole.detach(), targets) / len(everyone)
        before = sum(len(e) for e, _ in gathered[: self.machine.group.rank] if e is not None)
        sizes = [len(embedding) for _, embedding in parts]
        of_mine = gradient[before : before + sum(sizes)]
        return _Joint(own, {id(s): part for (s, _), part in zip(parts, torch.split(of_mine, sizes), strict=True)})
