"""The losses of a step's batches, including those that compare the rows of the whole step with one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from hft_core.backbone import Features
from hft_core.batching import Batch, Segment
from hft_core.head import Targets
from hft_core.machine import Machine
from hft_core.model import HybridModel


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Afterwards, dropout goes on as if nothing had been drawn inside."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@dataclass(frozen=True)
class _Joint:
    """A joint loss of a divided step: its value as a function of what the head itself trains, and its gradient with
    respect to the embeddings `[examples, d]`, by batch."""

    loss: Tensor
    gradients: dict[int, Tensor]


class Forward:
    """The batches of one step, through the trunk and the heads.

    A joint loss of a step that is divided into batches is computed from the embeddings of all of them, and each batch
    then adds `embedding · gradient`: the gradient of the whole, with the memory of one batch (GradCache, Gao et al.
    2021, arXiv:2101.06983).
    """

    def __init__(self, model: HybridModel, batches: Sequence[Batch], machine: Machine) -> None:
        self.model, self.batches, self.machine = model, batches, machine
        self.counts: dict[str, int] = {}
        appearances: dict[str, int] = {}
        for segment in (segment for batch in batches for segment in batch.segments):
            self.counts[segment.task] = self.counts.get(segment.task, 0) + segment.targets.count
            appearances[segment.task] = appearances.get(segment.task, 0) + 1
        self._divided = frozenset(t for t, n in appearances.items() if n > 1 and model.head(t).joint)
        self._joint: dict[str, _Joint] | None = None

    def sums(self, batch: Batch, hidden: Tensor | None = None) -> dict[str, Tensor]:
        """What the batch adds to each task's loss, summed over its targets; from `hidden` where that is known."""
        if self._divided and self._joint is None:
            self.ahead()
        with self.machine.autocast():
            hidden = self.model.hidden(batch) if hidden is None else hidden
            sums: dict[str, Tensor] = {}
            for segment, features in self.model.segments(batch, hidden):
                loss = self._loss(segment, features)
                sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        return sums

    def _loss(self, segment: Segment, features: Features) -> Tensor:
        head = self.model.head(segment.task)
        if segment.task not in self._divided:
            return head.loss(features, segment.targets)
        assert self._joint is not None
        joint = self._joint[segment.task]
        gradient = joint.gradients[id(segment)]
        along = (head.embed(features).float() * gradient).sum()
        first = next(iter(joint.gradients)) == id(segment)
        return along - along.detach() + (joint.loss if first else 0.0)

    def ahead(self) -> dict[str, Tensor]:
        """Each task's loss over the whole step, computed without gradients, with the dropout that the passes to come
        will have."""
        sums: dict[str, Tensor] = {}
        embeddings: dict[str, list[tuple[Segment, Tensor]]] = {task: [] for task in self._divided}
        with random_state_kept(self.machine.device), torch.no_grad(), self.machine.autocast():
            for batch in self.batches:
                for segment, features in self.model.segments(batch, self.model.hidden(batch)):
                    head = self.model.head(segment.task)
                    if segment.task in self._divided:
                        embeddings[segment.task].append((segment, head.embed(features).float()))
                        continue
                    loss = self._loss(segment, features)
                    sums[segment.task] = sums[segment.task] + loss if segment.task in sums else loss
        self._joint = {task: self._whole(task, parts) for task, parts in embeddings.items()}
        return sums | {task: joint.loss.detach() for task, joint in self._joint.items()}

    def _whole(self, task: str, parts: Sequence[tuple[Segment, Tensor]]) -> _Joint:
        """The joint loss of all embeddings of a step."""
        segments = [segment for segment, _ in parts]
        targets = Targets(
            sum(segment.targets.count for segment in segments),
            {
                name: torch.cat([segment.targets.tensors[name] for segment in segments])
                for name in segments[0].targets.tensors
            },
        )
        whole = torch.cat([embedding for _, embedding in parts]).requires_grad_()
        head = self.model.head(task)
        with torch.enable_grad():
            loss = head.joint_loss(whole, targets)
            (gradient,) = torch.autograd.grad(loss, whole, retain_graph=True)
            own = head.joint_loss(whole.detach(), targets)
        sizes = [len(embedding) for _, embedding in parts]
        by_batch = {id(segment): part for segment, part in zip(segments, torch.split(gradient, sizes), strict=True)}
        return _Joint(own, by_batch)
