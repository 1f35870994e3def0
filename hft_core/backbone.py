"""The contract of the backbone seam: a trunk that turns token ids into hidden states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Features:
    """One padded batch and what the trunk made of it."""

    hidden: Tensor
    """`[batch, seq, hidden]`: the trunk's last hidden states; of an encoder-decoder that was given `decoder_input_ids`,
    `[batch, target seq, hidden]`."""
    input_ids: Tensor
    """`[batch, seq]`"""
    attention_mask: Tensor
    """`[batch, seq]`, 1 for real tokens; padding is on the right."""


class FamilyModule(nn.Module, ABC):
    """What a backbone's family puts on its trunk; its weights go by the names of the family's own class."""

    plain_class: str
    """The class of transformers that opens trunk and module together (`AutoModelForSequenceClassification`)."""

    @abstractmethod
    def plain_state(self, *, tied: bool = False) -> dict[str, Tensor]:
        """The module's weights in the names of the plain class; with `tied` also those it shares with the trunk."""

    @abstractmethod
    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `plain_state`; weights that are tied here stay so where those of `state` are equal.

        Raises `ValueError` when a name is missing or not known.
        """


class LanguageModel(FamilyModule):
    """A trunk's own LM head: `[n, hidden]` → `[n, vocabulary]`. It may share (tie) parameters with the embeddings."""

    pretrained: bool
    """False when the checkpoint had no weights for it, so that they are fresh."""


class SequenceModule(FamilyModule):
    """What the family has for one kind of task: `Features` → logits `[batch, labels]` or `[batch, seq, labels]`."""


class Pooler(nn.Module):
    """One vector a sequence: `Features` → `[batch, size]`."""

    size: int


class Backbone(ABC):
    """A trunk with its tokenizer.

    `trunk` is what strategies change and what is saved; everything else belongs to heads.
    """

    trunk: nn.Module
    tokenizer: PreTrainedTokenizerBase
    hidden_size: int
    max_length: int
    """Longest sequence the trunk takes, in tokens."""
    max_target_length: int = 0
    """Longest target that an encoder-decoder takes, in tokens."""
    causal: bool
    """Each position sees only those before it; of an encoder-decoder, those of its decoder."""
    encoder_decoder: bool = False
    """The hidden states are those of a decoder, which reads `decoder_input_ids` where a head gives any, and otherwise
    the text itself once more, shifted right; it sees all of the encoder's text at every position."""
    generates: bool = False
    """`generate` can be called."""
    splits: bool = False
    """`lower` and `upper` can be called."""
    packs: bool = False
    """`forward` puts several rows of a batch in one, so that no strategy may tell them by their place in it."""
    source: str
    """The folder or hub id that the weights came from, as an adapter names its base model; empty where no plain library
    opens it by such a name."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hidden states `[batch, seq, hidden]` of `inputs`: `input_ids`, `attention_mask` and further inputs of the
        tokenizer, each `[batch, seq]`; for an encoder-decoder also `decoder_input_ids` and `decoder_attention_mask`,
        each `[batch, target seq]`."""

    def in_training(self) -> AbstractContextManager[None]:
        """Return a context for the training steps of a stage, in which the trunk may use fast paths: other kernels for
        the same function (see `hft_core.forward_override` and `hft_core.cpu_dropout`)."""
        return nullcontext()

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The trunk's layers, from the one next to the embeddings upwards."""

    def lower(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """`[batch, seq, hidden]`: what the first `depth` layers (at least one) make of `inputs`; for all layers, what
        `forward` makes of them. Of backbones with `splits`."""
        raise NotImplementedError(f"{type(self).__name__} cannot stop in the middle")

    def upper(self, hidden: Tensor, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """The rest of `forward`: `upper(lower(inputs, depth), inputs, depth)` is `forward(inputs)`. What `hidden` holds
        at padding is of no consequence. Of backbones with `splits`."""
        raise NotImplementedError(f"{type(self).__name__} cannot begin in the middle")

    @property
    def language_model(self) -> LanguageModel | None:
        """The trunk's own LM head; None where its family has none."""
        return None

    def sequence_module(self, plain_class: str, **config: Any) -> SequenceModule | None:
        """What transformers' `plain_class` puts on this trunk, configured with `config` (for instance `num_labels`);
        None where the family has no such class, so that the head brings its own module."""
        return None

    def decoder_input_ids(self, labels: Sequence[int]) -> list[int]:
        """What the decoder reads to predict `labels` one after another: they shifted right, behind the family's start
        token. Of encoder-decoders."""
        raise NotImplementedError(f"{type(self).__name__} is no encoder-decoder")

    def generate(self, inputs: Mapping[str, Tensor], *, max_new_tokens: int, seed: int = 0, **settings: Any) -> Tensor:
        """`[batch, new tokens]`: what the model writes after each text of `inputs` (`input_ids` and `attention_mask`,
        padded on the right), padded on the right.

        Greedy unless `settings` say otherwise; they go by the names of transformers' `GenerationConfig`. What they draw
        at random depends on `seed` and the batch alone. Of backbones with `generates`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate")

    def pooler(self) -> Pooler | None:
        """A new module that makes one vector of a sequence as the checkpoint was trained to; None where that is left to
        the heads."""
        return None

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write the trunk with the weights `state` (named as in the trunk when it was built) and the tokenizer into
        `folder`, so that the library of its family, and this backbone, open it."""

    @abstractmethod
    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        """Write `folder` such that the family's own class opens the trunk saved in `trunk_folder` with one head on it.

        `module` is one that this backbone made, `state` its weights in the names of the family (`plain_state`),
        `config` settings of the family's configuration (for instance `id2label`).
        """

    @abstractmethod
    def load_task(self, folder: Path) -> dict[str, Tensor]:
        """The head's weights that `save_task` wrote, in the names of the family."""

    @property
    @abstractmethod
    def trunk_prefix(self) -> str:
        """The trunk's attribute name in the family's own classes with a head (`bert`, `model`)."""

    def prefix_in(self, plain_class: str) -> str:
        """What the names of the trunk's weights begin with in the family's `plain_class` (`bert.`)."""
        return f"{self.trunk_prefix}."
