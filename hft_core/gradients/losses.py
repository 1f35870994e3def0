"""Compute the losses of a step's batches, including joint losses, which compare the rows of the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hft_core.backbone import Features
from hft_core.batching.batch import Batch, Segment
from hft_core.device.clock import FORWARD
from hft_core.device.machine import Machine
from hft_core.head import Targets
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
from hft_core.model.hybrid import HybridModel
from hft_core.runtime.random_state import random_state_kept


@dataclass(frozen=True)
class _Joint:
    """A joint loss of a step of several batches."""

    loss: Tensor
    """This process's part of it, as a function of the head's own parameters."""
    gradients: dict[int, Tensor]
    """With respect to the embeddings `[examples, d]` of each segment, by `id`."""


@dataclass(frozen=True)
class NoGradPass:
    """The result of a pass without gradients."""

    sums: dict[str, Tensor]
    """Each task's loss, summed over this process's rows of the step."""
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
        self._joint_tasks = tuple(task for task, n in appearances.items() if n > 1 and model.head(task).joint)
        self._joint: dict[str, _Joint] = {}
        if self._joint_tasks:
            self._joint = self.no_grad_pass.joint

    def hidden(self, batch: Batch) -> Tensor:
        """Return the trunk's last hidden states of the batch, `[batch, seq, hidden]`."""
        with self.machine.clock.part(FORWARD), self.machine.autocast():
            return self.model.hidden(batch, self.plan)

    def sums(self, batch: Batch, hidden: Tensor | None = None) -> dict[str, Tensor]:
        """Return the batch's loss by task, summed over targets; from `hidden` where it is given."""
        return self.sums_of(self.model.segments(batch, self.hidden(batch) if hidden is None else hidden))

    def sums_of(self, segments: Sequence[tuple[Segment, Features]]) -> dict[str, Tensor]:
        """Return the same from segments with the features that their heads get."""
        sums: dict[str, Tensor] = {}
        with self.machine.clock.part(FORWARD), self.machine.autocast():
            for segment, features in segments:
                loss = self._loss(segment, features)
                sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        return sums

    def _loss(self, segment: Segment, features: Features) -> Tensor:
        head = self.model.head(segment.task)
        if segment.task not in self._joint_tasks:
            return head.loss(features, segment.targets)
        joint = self._joint[segment.task]
        gradient = joint.gradients[id(segment)]
        surrogate = (head.embed(features).float() * gradient).sum()
        first = next(iter(joint.gradients)) == id(segment)
        return surrogate - surrogate.detach() + (joint.loss if first else 0.0)

    @cached_property
    def no_grad_pass(self) -> NoGradPass:
        """A pass of the step without gradients, with the dropout of the passes with gradients; made before these."""
        sums: dict[str, Tensor] = {}
        embeddings: dict[str, list[tuple[Segment, Tensor]]] = {task: [] for task in self._joint_tasks}
        restored = random_state_kept(self.machine.device)
        with self.machine.clock.part(FORWARD), restored, torch.no_grad(), self.machine.autocast():
            for batch in self.batches:
                for segment, features in self.model.segments(batch, self.model.hidden(batch, self.plan)):
                    head = self.model.head(segment.task)
                    if segment.task in self._joint_tasks:
                        embeddings[segment.task].append((segment, head.embed(features).float()))
                        continue
                    loss = self._loss(segment, features)
                    sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        joint = {task: self._joint_loss(task, parts) for task, parts in embeddings.items()}
        return NoGradPass(sums | {task: each.loss.detach() for task, each in joint.items() if each.gradients}, joint)

    def _joint_loss(self, task: str, parts: Sequence[tuple[Segment, Tensor]]) -> _Joint:
        """Compute the joint loss of all embeddings of a step, of which this process has `parts`."""
        names = sorted({name for segment, _ in parts for name in segment.targets.tensors})
        mine = {name: torch.cat([segment.targets.tensors[name] for segment, _ in parts]).cpu() for name in names}
        embedded = torch.cat([embedding for _, embedding in parts]).cpu() if parts else None
        gathered = self.machine.group.all_gather((embedded, mine))
        nonempty = [(e, t) for e, t in gathered if e is not None]
        device = self.machine.device
        targets = Targets(
            self.counts[task],
            {name: torch.cat([tensors[name] for _, tensors in nonempty]).to(device) for name in nonempty[0][1]},
        )
        embeddings = torch.cat([embedding for embedding, _ in nonempty]).to(device).requires_grad_()
        head = self.model.head(task)
        with torch.enable_grad():
            loss = head.joint_loss(embeddings, targets)
            (gradient,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
            own = head.joint_loss(embeddings.detach(), targets) / len(nonempty)
        before = sum(len(e) for e, _ in gathered[: self.machine.group.rank] if e is not None)
        sizes = [len(embedding) for _, embedding in parts]
        of_mine = gradient[before : before + sum(sizes)]
        return _Joint(own, {id(s): part for (s, _), part in zip(parts, torch.split(of_mine, sizes), strict=True)})
