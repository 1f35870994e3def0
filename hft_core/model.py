"""The model that a stage trains: one trunk, and a head for each task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from hft_core.backbone import Backbone, Features
from hft_core.batching import Batch, Segment
from hft_core.head import Head


class HybridModel(nn.Module):
    """A trunk shared by the heads of all tasks; each row goes through the trunk once, and then to its task's head."""

    def __init__(self, backbone: Backbone, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.backbone = backbone
        self.trunk = backbone.trunk
        self.heads = nn.ModuleDict(heads)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each task in the batch, summed over its targets."""
        hidden = self.backbone.forward(batch.inputs)
        losses: dict[str, Tensor] = {}
        for segment in batch.segments:
            loss = self.head(segment.task).loss(_features(hidden, batch, segment), segment.targets)
            losses[segment.task] = losses[segment.task] + loss if segment.task in losses else loss
        return losses

    def features(self, batch: Batch) -> list[tuple[Segment, Features]]:
        """What each segment's head sees of the trunk."""
        hidden = self.backbone.forward(batch.inputs)
        return [(segment, _features(hidden, batch, segment)) for segment in batch.segments]

    def head(self, task: str) -> Head:
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def train(self, mode: bool = True) -> HybridModel:
        """As usual, but a trunk in which nothing trains stays in evaluation mode: its dropout would only add noise."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            self.trunk.eval()
        return self

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What trains in the trunk."""
        return [parameter for parameter in self.trunk.parameters() if parameter.requires_grad]

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        """The parameters of a task's head, without those it shares with (has tied to) the trunk."""
        shared = {id(parameter) for parameter in self.trunk.parameters()}
        return [parameter for parameter in self.heads[task].parameters() if id(parameter) not in shared]

    def head_parameters(self, tasks: Iterable[str]) -> list[nn.Parameter]:
        """What trains in the heads of `tasks`, each parameter once."""
        found = {id(p): p for task in tasks for p in self.own_parameters(task) if p.requires_grad}
        return list(found.values())

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


def _features(hidden: Tensor, batch: Batch, segment: Segment) -> Features:
    rows = segment.rows
    return Features(hidden[rows], batch.inputs["input_ids"][rows], batch.inputs["attention_mask"][rows])
