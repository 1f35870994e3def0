"""Measure how a trunk and the heads of its family behave, each on one tiny batch.

Families are told apart by what they compute, not by their names: a Llama may be bidirectional (`is_causal: false`), a
BERT causal (`is_decoder: true`), and code from the hub anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hft_core.backbone import Features
from hft_core.errors import ModelError

TOKENS = 8
"""Length of the text that is tried."""
CAUSAL = 1e-4
"""Largest change of earlier positions when the last token changes, as a share of the last position's own change."""
EQUAL = 1e-4
"""Largest difference between equal outputs, as a share of the largest value."""
NO_LIMIT = 10**9
"""Tokenizers without `model_max_length` give a huge number instead; some configurations give -1."""
DEFAULT_LENGTH = 512
"""Length that texts are cut to where neither model nor tokenizer has a limit, and the task sets none."""

Side = Literal["right", "left"]


@dataclass(frozen=True)
class Behavior:
    """How a trunk behaves."""

    causal: bool
    """A position does not depend on later ones."""
    width: int
    """Size of the hidden states."""
    takes_segments: bool
    """It takes the `token_type_ids` that its tokenizer gives a pair of texts."""


def measure(
    forward: Callable[[Mapping[str, Tensor]], Tensor],
    trunk: nn.Module,
    tokenizer: Any,
    *,
    model: str,
    causal: bool,
    reads: str = "input_ids",
) -> Behavior:
    """Measure a trunk. `forward`: inputs → hidden states; `causal`: what to assume where no position depends on its own
    token; `reads`: the input whose tokens the hidden states belong to.

    Raises `ModelError` when the trunk cannot compute a short text, or does not give one vector a token.
    """
    name = type(trunk).__name__
    with _trial(trunk):
        ids = sample_ids(tokenizer, TOKENS)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), reads: ids}
        try:
            hidden, again = forward(inputs), forward(inputs)
        except Exception as error:  # each family has errors of its own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"model '{model}': {name} cannot compute a text of {TOKENS} tokens: {reason}") from error
        if not isinstance(hidden, Tensor) or hidden.ndim != 3 or hidden.shape[:2] != ids.shape:
            shape = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise ModelError(f"model '{model}': {name} gives {shape} for {TOKENS} tokens, expected one vector a token")
        if not equal(hidden, again):
            raise ModelError(f"model '{model}': {name} gives other hidden states for the same text at each call")
        _check_training(forward, trunk, inputs, model)
        later, earlier = (_change(forward, inputs, reads, hidden, place) for place in (TOKENS - 1, 0))
        if later[:-1].any() or earlier[1:].any():
            causal = bool(later[:-1].max() <= CAUSAL * later[-1])
        elif earlier[0] > 0 and not _begins_at_zero(trunk):
            raise ModelError(
                f"model '{model}': {name} computes each token for itself, as if there were no other tokens: it needs "
                "kernels that are not installed, or another device"
            )
        return Behavior(causal, hidden.shape[-1], _takes_segments(forward, inputs, tokenizer))


def _begins_at_zero(trunk: nn.Module) -> bool:
    """Tell whether a weight matrix is zero, as in a model that is trained from the beginning: attention may come to
    nothing then."""
    return any(parameter.ndim > 1 and not parameter.any() for parameter in trunk.parameters())


def _change(
    forward: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    reads: str,
    hidden: Tensor,
    place: int,
) -> Tensor:
    """Return how much the hidden states at each position change with the token at `place`: `[TOKENS]`."""
    ids = inputs[reads].clone()
    ids[0, place] = ids[0, TOKENS // 2]
    return (forward({**inputs, reads: ids}) - hidden).abs().amax(dim=(0, 2))


def _check_training(
    forward: Callable[[Mapping[str, Tensor]], Tensor], trunk: nn.Module, inputs: Mapping[str, Tensor], model: str
) -> None:
    """Raise `ModelError` for a trunk that cannot be trained on a text it computes: Reformer's takes one length."""
    trunk.train()
    try:
        forward(inputs)
    except Exception as error:  # each family has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model '{model}': {type(trunk).__name__} cannot be trained on a text of {TOKENS} tokens: {reason}"
        ) from error
    finally:
        trunk.eval()


def position_limit(config: PretrainedConfig) -> int | None:
    """Return how many positions the family's embeddings, or T5's training, allow for; None for no limit."""
    names = ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions")
    return next((limit for name in names if (limit := limit_of(getattr(config, name, None)))), None)


def limit_of(value: Any) -> int | None:
    """Return a length limit as a number; None where `value` stands for no limit."""
    return int(value) if isinstance(value, int | float) and 0 < value < NO_LIMIT else None


def padding_side(score: Callable[[Features], Tensor], width: int, tokenizer: Any) -> Side | None:
    """Return the side on which padding does not change what `score` computes; None where it always does, or `score`
    cannot be computed.

    `score`: hidden states `[batch, seq, width]` → `[batch, labels]` or `[batch, seq, labels]`.
    """
    ids = torch.tensor([tokenizer("a text")["input_ids"]])
    hidden = _random(*ids.shape, width)
    alone = Features(hidden, ids, torch.ones_like(ids))
    side: Side
    try:
        expected = score(alone)
        for side in ("right", "left"):
            padded = score(_padded(alone, tokenizer.pad_token_id, side))
            if padded.ndim == 3:
                padded = padded[:, : ids.shape[1]] if side == "right" else padded[:, -ids.shape[1] :]
            if equal(expected, padded):
                return side
    except Exception:  # each family has errors of its own, and another head is used then
        return None
    return None


def takes_unequal_ends(score: Callable[[Features], Tensor], width: int, tokenizer: Any) -> bool:
    """Tell whether `score` takes rows with different numbers of end tokens together."""
    if tokenizer.eos_token_id is None:
        return True
    ids = torch.tensor([tokenizer("a text")["input_ids"]]).repeat(2, 1)
    ids[1, 0] = tokenizer.eos_token_id
    try:
        score(Features(_random(*ids.shape, width), ids, torch.ones_like(ids)))
    except Exception:  # each family has errors of its own
        return False
    return True


class LogitsTrial:
    """The logits of a plain class for one short text, before its trunk is taken out and afterwards."""

    def __init__(self, whole: PreTrainedModel, tokenizer: Any) -> None:
        self.whole = whole
        ids = sample_ids(tokenizer, TOKENS)
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if whole.config.is_encoder_decoder:
            self.inputs["decoder_input_ids"] = ids
        uncached = {"use_cache": False} if "use_cache" in inspect.signature(whole.forward).parameters else {}
        self.expected = self._computed(lambda inputs: whole(**inputs, **uncached).logits[0])

    def equal_to(self, logits: Callable[[Mapping[str, Tensor]], Tensor]) -> bool:
        """Tell whether `logits`, inputs → `[seq, vocabulary]`, computes the same."""
        found = self._computed(logits)
        return self.expected is not None and found is not None and equal(self.expected, found)

    def _computed(self, logits: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor | None:
        with _trial(self.whole):
            try:
                return logits(self.inputs)
            except Exception:  # each family has errors of its own; what it raises cannot be trained either
                return None


def sample_ids(tokenizer: Any, count: int) -> Tensor:
    """Return `[1, count]` token ids, all different where the vocabulary allows it and none of them special."""
    special = set(tokenizer.all_special_ids)
    ids = [id for id in range(min(len(tokenizer), 1000 + len(special))) if id not in special] or [0]
    step = max(1, len(ids) // count)
    return torch.tensor([[ids[(i * step) % len(ids)] for i in range(count)]])


def equal(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of one shape differ by rounding only."""
    return one.shape == other.shape and bool((one - other).abs().max() <= EQUAL * one.abs().max())


def _takes_segments(forward: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], tok: Any) -> bool:
    if "token_type_ids" not in tok.model_input_names:
        return False
    largest = max(_segments(tok), default=1)
    kinds = torch.full_like(inputs["input_ids"], largest)
    try:
        forward({**inputs, "token_type_ids": kinds})
    except (IndexError, TypeError, RuntimeError):  # no such segment, or no such input
        return False
    return True


def _segments(tokenizer: Any) -> Sequence[int]:
    segments: Sequence[int] = tokenizer("a text", "another").get("token_type_ids", [])
    return segments


def _padded(features: Features, pad: int, side: Side, count: int = 3) -> Features:
    """Return the features with `count` positions of padding."""
    hidden, ids, mask = features.hidden, features.input_ids, features.attention_mask
    more = (_random(len(ids), count, hidden.shape[-1]), torch.full((len(ids), count), pad), mask.new_zeros(1, count))
    parts = [(hidden, more[0]), (ids, more[1]), (mask, more[2])]
    return Features(*(torch.cat(pair if side == "right" else pair[::-1], dim=1) for pair in parts))


def _random(*shape: int) -> Tensor:
    """Return the same numbers at each call, without a use of torch's own generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@contextmanager
def _trial(trunk: nn.Module) -> Iterator[None]:
    """Compute without gradients and dropout, and leave the random state as it was."""
    training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        trunk.train(training)
