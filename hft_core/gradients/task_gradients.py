"""Keep the gradients of one task's own parameters until their weight is known."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hft_core.model.hybrid import HybridModel


class TaskGradients:
    """The gradients of one task's loss with respect to some parameters, summed over batches."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.gradients: list[Tensor | None] = [None] * len(self.parameters)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add a batch's gradients, one per parameter."""
        for i, gradient in enumerate(gradients):
            total = self.gradients[i]
            self.gradients[i] = gradient if total is None else total if gradient is None else total + gradient

    def add_to_grad(self, weight: Tensor | None) -> None:
        """Add the gradients to `.grad` of the parameters, multiplied by `weight` if there is one."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if gradient is not None:
                gradient = gradient if weight is None else gradient * weight
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def tied_parameters(model: HybridModel, task: str) -> list[nn.Parameter]:
    """Return the trainable parameters that a task's head shares with the trunk (an LM head tied to the embeddings)."""
    trunk = {id(parameter) for parameter in model.trunk_parameters()}
    return [parameter for parameter in model.heads[task].parameters() if id(parameter) in trunk]


def unique_parameters(gradients: Sequence[TaskGradients]) -> list[nn.Parameter]:
    """Return the parameters of all `gradients`, each once."""
    return list({id(p): p for of_task in gradients for p in of_task.parameters}.values())
