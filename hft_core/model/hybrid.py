"""Combine one trunk, the strategy that trains it, and a head for each task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hft_core.backbone import Backbone, Features
from hft_core.batching.batch import Batch, CachedHidden, Segment, UniqueRows
from hft_core.errors import PluginError
from hft_core.head import Head
from hft_core.model import tied_weights
from hft_core.model.execution_plan import PLAIN, ExecutionPlan
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

    def apply_strategy(self, strategy: Strategy, tasks: tuple[str, ...]) -> None:
        """Apply a strategy to the trunk; from now on, passes through the trunk go by it.

        Raises `PluginError` when the strategy and the trunk do not go together.
        """
        if self.backbone.quantization and not strategy.adapter:
            raise PluginError(
                f"the backbone's weights are quantized ({self.backbone.quantization}), and the strategy saves the "
                "trunk's own weights; expected one that saves an adapter (lora, dora, task-lora, …), or no quantization"
            )
        strategy.apply(self.backbone, tasks)
        self.strategy = strategy

    def fold_strategy(self) -> list[str]:
        """Fold what the strategy added into the trunk's own weights, and return to the plain strategy.

        Hidden states and heads compute what they did before: weights that are one parameter for several modules (an LM
        head tied to the embedding) become two where folding changes them for one alone. Returns which, for people.
        """
        if self.backbone.quantization:
            raise PluginError(
                f"an adapter would be merged into weights that are quantized ({self.backbone.quantization}), which "
                "would round most of it away; give all stages the same strategy, or leave the quantization out"
            )
        shared = tied_weights.shared_weights(self.trunk, self.heads)
        inside = tied_weights.tied_names(self.strategy.base_state(self.backbone))
        self.strategy.fold(self.backbone)
        self.strategy = Strategy()
        left = tied_weights.tied_names(self.trunk.state_dict())
        pairs = [(f"'{name}' of the trunk", f"'{other}'") for name, other in inside.items() if name not in left]
        for name in tied_weights.keep_shared(self.trunk, self.heads, shared):
            task, _, weight = name.partition(".")
            pairs.append((f"'{weight.rpartition('whole.')[2]}' of the head of task '{task}'", "a weight of the trunk"))
        return [
            f"{one} was one with {other}, and the strategy changed one of them: they are two from here on, and are "
            "saved as two"
            for one, other in pairs
        ]

    def hidden(self, batch: Batch, plan: ExecutionPlan = PLAIN) -> Tensor:
        """The trunk's last hidden states of a batch, `[batch, seq, hidden]`, computed as the plan says."""
        assert plan.strategy is None or plan.strategy is self.strategy, "the plan was decided for another strategy"
        if batch.cached is not None:
            depth = plan.frozen.depth
            return self.from_layer(batch, self._completed(batch.inputs, batch.cached, depth), depth)
        if batch.unique_rows is not None and plan.shared_depth:
            return self.deduplicated(batch, batch.unique_rows, plan.shared_depth)
        return self.strategy.forward(self.backbone, batch.inputs, batch.task_rows)

    def deduplicated(self, batch: Batch, unique: UniqueRows, depth: int) -> Tensor:
        """`hidden`, with each text computed once in the first `depth` layers."""
        once = {name: tensor.index_select(0, unique.first) for name, tensor in batch.inputs.items()}
        return self.from_layer(batch, self.backbone.lower(once, depth).index_select(0, unique.of_row), depth)

    def from_layer(self, batch: Batch, lower: Tensor, depth: int) -> Tensor:
        """`hidden`, from the output `[batch, seq, hidden]` of the first `depth` layers."""
        return self.strategy.upper(self.backbone, lower, batch.inputs, batch.task_rows, depth)

    def _completed(self, inputs: Mapping[str, Tensor], cached: CachedHidden, depth: int) -> Tensor:
        """The output of the frozen prefix for a batch; rows that are not cached are computed."""
        if not len(cached.missing):
            return cached.hidden
        with torch.no_grad():
            of_missing = {name: tensor[cached.missing] for name, tensor in inputs.items()}
            computed = self.backbone.lower(of_missing, depth)
            return cached.hidden.index_copy(0, cached.missing, computed.to(cached.hidden.dtype))

    def segments(self, batch: Batch, hidden: Tensor) -> list[tuple[Segment, Features]]:
        """The features that each segment's head gets of the hidden states."""
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        return [(s, Features(hidden[s.rows], ids[s.rows], mask[s.rows])) for s in batch.segments]

    def head(self, task: str) -> Head:
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def train(self, mode: bool = True) -> HybridModel:
        """As usual, but a trunk without trainable parameters stays in evaluation mode: its dropout would only add
        noise."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            self.trunk.eval()
        return self

    def train_under(self, plan: ExecutionPlan) -> None:
        """Put the model into training mode, and its frozen prefix into evaluation mode."""
        self.train()
        plan.frozen.eval()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode; afterwards, every module is in the mode it was in."""
        training, modes = self.training, [(module, module.training) for module in self.modules()]
        if not any(mode for _, mode in modes):  # a saved run: one short text costs little more than these switches
            yield
            return
        self.eval()
        try:
            yield
        finally:
            self.train(training)
            for module, mode in modes:
                module.training = mode

    # --- trainable parameters

    def trunk_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the trunk."""
        return [parameter for parameter in self.trunk.parameters() if parameter.requires_grad]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the trunk that are private to no task."""
        private = {id(p) for parameters in self.strategy.private(self.backbone).values() for p in parameters}
        return [parameter for parameter in self.trunk_parameters() if id(parameter) not in private]

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        """The parameters of a task's head, without those it shares with (has tied to) the trunk."""
        shared = {id(parameter) for parameter in self.trunk.parameters()}
        return [parameter for parameter in self.heads[task].parameters() if id(parameter) not in shared]

    def head_parameters(self, tasks: Iterable[str]) -> list[nn.Parameter]:
        """The trainable parameters of the heads of `tasks`, each once."""
        by_id = {id(p): p for task in tasks for p in self.own_parameters(task) if p.requires_grad}
        return list(by_id.values())

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The trainable parameters of a task's head and of its private part of the trunk."""
        private = self.strategy.private(self.backbone).get(task, ())
        return [*self.head_parameters([task]), *(parameter for parameter in private if parameter.requires_grad)]

    def choose_heads(self, tasks: Iterable[str]) -> None:
        """Make the heads of `tasks` trainable and freeze the others; after the strategy was applied to the trunk.

        A head that came with the trunk trains only where the whole trunk does.
        """
        chosen = set(tasks)
        whole_trunk = all(parameter.requires_grad for parameter in self.trunk.parameters())
        for task in sorted(self.heads, key=lambda name: name in chosen):  # two tasks may have one LM head
            trains = task in chosen and (whole_trunk or not self.head(task).part_of_trunk)
            for parameter in self.own_parameters(task):
                parameter.requires_grad_(trains)
