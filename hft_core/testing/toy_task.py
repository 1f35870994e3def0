"""Assemble a head on a tiny trunk with toy rows, as a run does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hft_core.backbone import Features
from hft_core.batching.batch import Batch, Segment
from hft_core.batching.collate import Collator
from hft_core.data.examples import Examples
from hft_core.device.machine import Machine, find_machine
from hft_core.errors import DataError, PluginError
from hft_core.head import Head
from hft_core.model.hybrid import HybridModel
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.testing import toys, trunks
from hft_core.testing.check import Failed, Subject

TASK = "toy"
ROWS = 24


class ToyTask:
    """A task of a head: tokenized rows, and the head attached to a trunk, in evaluation mode."""

    def __init__(self, subject: Subject, family: str, *, max_length: int | None = None) -> None:
        torch.manual_seed(1)
        self.rows = {"train": rows_of(subject, ROWS, 0), "dev": rows_of(subject, ROWS // 2, 1)}
        task = {"head": {"type": subject.entry.name, **subject.spec.example}, "max_length": max_length}
        recipe = {
            "backbone": {"model": str(trunks.folder(family))},
            "tasks": {TASK: {key: value for key, value in task.items() if value is not None}},
            "stages": [{"max_steps": 1}],
        }
        resolved = resolve(recipe_file.from_dict(recipe), subject.catalogue)
        self.material = assembly.assemble(resolved, host_data={TASK: self.rows}, trust_remote_code=False)
        self.model: HybridModel = self.material.model
        self.head: Head = self.model.head(TASK)
        self.model.eval()

    @property
    def examples(self) -> Examples:
        """The tokenized training rows."""
        return self.material.examples["train"][TASK]

    def batches(self, examples: Examples | None = None, rows: int = 64) -> list[Batch]:
        """Collate examples (the training rows by default) into evaluation batches of at most `rows` rows."""
        given = self.examples if examples is None else examples
        pad = self.model.backbone.tokenizer.pad_token_id
        collator = Collator({TASK: given}, {TASK: self.head}, seed=0, pad=pad)
        return list(collator.in_length_order(max_rows=rows, max_tokens=10**6))

    def seen(self, batch: Batch) -> tuple[Segment, Features]:
        """Return the batch's segment, and the trunk's features that the head reads."""
        ((segment, features),) = self.model.segments(batch, self.model.hidden(batch))
        return segment, features

    def loss(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch, summed over its targets."""
        segment, features = self.seen(batch)
        return self.head.loss(features, segment.targets)

    def predictions(self, batch: Batch) -> list[Any]:
        """Return the head's predictions for a batch."""
        with torch.no_grad():
            segment, features = self.seen(batch)
            return self.head.predict(features, segment.targets)

    def mean_loss(self) -> float:
        """Compute the mean loss over all targets of the training rows, in evaluation mode."""
        self.model.eval()
        with torch.no_grad():
            parts = [(float(self.loss(batch)), batch.segments[0].targets.count) for batch in self.batches()]
        return sum(loss for loss, _ in parts) / sum(count for _, count in parts)

    def train(self, steps: int) -> None:
        """Train trunk and head together, on all training rows in each step."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01, weight_decay=0.0)
        batches = self.batches()
        count = sum(batch.segments[0].targets.count for batch in batches)
        self.model.train()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            for batch in batches:
                (self.loss(batch) / count).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.model.eval()


@cache
def float32_machine() -> Machine:
    """Find this process's device, in float32; once, since that measures number formats."""
    return find_machine("fp32")


def rows_of(subject: Subject, count: int, seed: int) -> list[dict[str, Any]]:
    """Make toy rows for the head: by its spec's `example_rows`, or from its columns."""
    make = subject.catalogue.load_example(subject.entry, "example_rows")
    if make is not None:
        rows: list[dict[str, Any]] = make(count, seed)
        return rows
    return toys.rows(subject.build(task=TASK).columns(), count, seed)


def toy_tasks(subject: Subject, *, max_length: int | None = None) -> Iterator[tuple[str, ToyTask]]:
    """Build the head on the tiny trunks that it accepts, at most `trunks.TRUNKS`, by the name of the family.

    Raises `Failed` when it accepts none, or rejects its toy rows.
    """
    reasons, accepted = [], 0
    for family in trunks.families(subject.catalogue):
        try:
            toy = ToyTask(subject, family, max_length=max_length)
        except PluginError as error:
            reasons.append(f"{family}: {error}")
            continue
        except DataError as error:
            raise Failed(
                f"expected toy rows that the head takes (its spec's `example_rows` can make them); found {error}"
            ) from error
        accepted += 1
        yield family, toy
        if accepted == trunks.TRUNKS:
            return
    if not accepted:
        raise Failed(f"expected a tiny trunk that the head takes; found {'; '.join(reasons)}")
