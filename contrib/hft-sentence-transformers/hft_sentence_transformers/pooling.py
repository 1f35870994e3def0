"""One vector a text, as a folder of sentence-transformers says: its pooling, and its Dense and Normalize behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from hft_core.backbone import Features, Pooler
from hft_core.errors import ModelError, did_you_mean
from hft_sentence_transformers.folder import Step


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def maximum(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(dim=1)


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return weighted(hidden, mask.float())


def mean_sqrt_len_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """The sum, divided by the root of the length."""
    return mean(hidden, mask) * mask.sum(dim=1, keepdim=True).sqrt()


def weightedmean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Later tokens, which have seen more in a causal trunk, weigh more (SGPT, Muennighoff 2022, arXiv:2202.08904)."""
    return weighted(hidden, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device, dtype=torch.float32))


def lasttoken(hidden: Tensor, mask: Tensor) -> Tensor:
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, mask.sum(dim=1).long() - 1]


def weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    """`[batch, seq, hidden]`, `[batch, seq]` → the weighted mean `[batch, hidden]`."""
    return (hidden * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)


MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": cls,
    "max": maximum,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean,
    "lasttoken": lasttoken,
}
"""Float32 hidden states `[batch, seq, hidden]` and mask `[batch, seq]` → `[batch, hidden]`; padding is on the right."""

OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""What older folders say, one true or false a mode, in the order of their vectors."""


def modes_of(config: Mapping[str, Any], place: Path) -> tuple[str, ...]:
    """The modes whose vectors are put one behind the other. Raises `ModelError` for one that is not known."""
    said = config.get("pooling_mode") or [mode for old, mode in OLD_NAMES.items() if config.get(old)] or "mean"
    modes = (said,) if isinstance(said, str) else tuple(map(str, said))
    for mode in modes:
        if mode not in MODES:
            raise ModelError(f"{place}: found the pooling '{mode}'.{did_you_mean(mode, MODES)}")
    return modes


class SentencePooler(Pooler):
    """What `SentenceTransformer.encode` makes of a text's hidden states; nothing in it trains."""

    def __init__(self, modes: Sequence[str], steps: Sequence[nn.Module], size: int) -> None:
        super().__init__()
        self.modes = tuple(modes)
        self.steps = nn.ModuleList(steps)
        self.size = size

    def forward(self, features: Features) -> Tensor:
        """→ `[batch, size]`, in float32: a sum over many tokens loses too much in bfloat16."""
        with torch.autocast(features.hidden.device.type, enabled=False):
            hidden, mask = features.hidden.float(), features.attention_mask
            pooled = torch.cat([MODES[mode](hidden, mask) for mode in self.modes], dim=1)
            for step in self.steps:
                pooled = step(pooled)
        return pooled


class Dense(nn.Module):
    """A linear layer and its activation, with the folder's weights. They are no parameters: they stay as they are, so
    that the folder saved beside a run's trunk makes the vectors that the run's heads were trained on."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)
        self.activation = activation

    def forward(self, pooled: Tensor) -> Tensor:
        """`[batch, in]` → `[batch, out]`"""
        transformed: Tensor = self.activation(functional.linear(pooled, self.weight, self.bias))
        return transformed


class Normalize(nn.Module):
    """To length 1."""

    def forward(self, pooled: Tensor) -> Tensor:
        return functional.normalize(pooled, dim=1)


def pooler(steps: Sequence[Step], hidden_size: int) -> SentencePooler:
    """The module that `steps`, the folder's modules behind its transformer, stand for.

    Raises `ModelError` when one does not fit the other, or its weights cannot be read.
    """
    first, *others = steps
    modes = modes_of(first.config, first.place)
    said = first.config.get("embedding_dimension", first.config.get("word_embedding_dimension", hidden_size))
    if said != hidden_size:
        raise ModelError(
            f"{first.place}: pools vectors of size {said}, but those of the transformer have {hidden_size}"
        )
    size = hidden_size * len(modes)
    made: list[nn.Module] = []
    for step in others:
        if step.kind == "Dense":
            layer = dense(step, size)
            size = len(layer.weight)
            made.append(layer)
        else:
            made.append(Normalize())
    return SentencePooler(modes, made, size)


def dense(step: Step, size: int) -> Dense:
    """The Dense of `step`, which is given vectors of `size`. Raises `ModelError`."""
    if step.config.get("use_residual"):
        raise ModelError(f"{step.place}: found a Dense with 'use_residual', which is not supported here; expected none")
    state = _weights(step.place)
    weight = state.get("linear.weight")
    if weight is None or weight.shape[1] != size:
        found = "no 'linear.weight'" if weight is None else f"a Dense of vectors of size {weight.shape[1]}"
        raise ModelError(f"{step.place}: found {found}, expected one of size {size}")
    return Dense(weight, state.get("linear.bias"), _activation(step))


def _activation(step: Step) -> nn.Module:
    """By the name of its class, which is one of torch.nn."""
    said = str(step.config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = getattr(nn, said.rpartition(".")[2], None)
    if not (said.startswith("torch.nn.") and isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ModelError(f"{step.place}: found the activation '{said}', expected one of torch.nn")
    made: nn.Module = kind()
    return made


def _weights(place: Path) -> dict[str, Tensor]:
    safe, old = place / "model.safetensors", place / "pytorch_model.bin"
    try:
        if safe.is_file():
            return load_file(safe)
        state: dict[str, Tensor] = torch.load(old, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises what its library likes
        raise ModelError(f"{place}: its weights cannot be read: {' '.join(str(error).split())[:200]}") from error
    return state
