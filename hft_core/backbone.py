"""The contract of the backbone seam.

A `Backbone` wraps a *trunk*, the transformer body that maps token ids to hidden states (PEFT's base model), together
with its tokenizer. Task heads are not part of the trunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Features:
    """One padded batch and its hidden states."""

    hidden: Tensor
    """`[batch, seq, hidden]`: the trunk's last hidden states; `[batch, target seq, hidden]` for an encoder-decoder that
    was given `decoder_input_ids`."""
    input_ids: Tensor
    """`[batch, seq]`"""
    attention_mask: Tensor
    """`[batch, seq]`, 1 for real tokens; padding is on the right."""


class FamilyModule(nn.Module, ABC):
    """A module that the model family defines on top of the trunk; its weights are named as in the family's own
    class."""

    plain_class: str
    """The transformers class that loads trunk and module together (`AutoModelForSequenceClassification`)."""

    @abstractmethod
    def plain_state(self, *, tied: bool = False) -> dict[str, Tensor]:
        """Return the module's weights under the names of `plain_class`; with `tied`, also those shared with the
        trunk."""

    @abstractmethod
    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `plain_state` returned; weights that are tied here remain tied where those of `state` are equal.

        Raises `ValueError` when a name is missing or unknown.
        """


class LanguageModel(FamilyModule):
    """A trunk's own LM head: `[n, hidden]` → `[n, vocabulary]`. It may share (tie) parameters with the embeddings."""

    pretrained: bool
    """False when the checkpoint had no weights for it, so that they are newly initialized."""


class SequenceModule(FamilyModule):
    """The family's module for one kind of task: `Features` → logits `[batch, labels]` or `[batch, seq, labels]`."""

    pooler_is_pretrained: bool = False
    """The family has a pooler below its classifier, whose weights came with the checkpoint."""

    def pool(self, hidden: Tensor) -> Tensor | None:
        """Return what the family's pooler makes of `[batch, seq, hidden]`: `[batch, hidden]`; None without a pooler."""
        return None

    def pooler_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the family's pooler."""
        return []


class Pooler(nn.Module):
    """Pool a sequence into one vector: `Features` → `[batch, size]`."""

    size: int


TextPooling = Literal["cls", "mean", "max", "last"]
"""How a text's hidden states become one vector: the first token, the mean or maximum over tokens, the last token."""


@dataclass(frozen=True)
class PooledOutput:
    """All that a head computes: a pooled text or, where there is a weight, a linear layer on one,
    `pool(hidden) @ weight.T + bias`."""

    pooling: TextPooling
    weight: Tensor | None = None
    """`[outputs, hidden]`"""
    bias: Tensor | None = None
    """`[outputs]`"""
    normalize: bool = False
    """The output is divided by its length, as embeddings are."""


class QuantizedModule(nn.Module):
    """Compute with frozen weights that are stored in few bits, in buffers that never change: they are no parameters,
    and checkpoints leave them out."""

    @property
    def numbers(self) -> int:
        """How many weights it has."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many weights it has")


class Backbone(ABC):
    """Wrap a trunk and its tokenizer.

    Strategies modify and save `trunk`; everything else belongs to heads.
    """

    trunk: nn.Module
    tokenizer: PreTrainedTokenizerBase
    hidden_size: int
    max_length: int
    """Length of the longest sequence that the trunk accepts, in tokens."""
    default_length: int = 0
    """Length that texts are cut to where their task sets no `max_length`, in tokens; 0: `max_length`. Of trunks that
    have no limit."""
    max_target_length: int = 0
    """Length of the longest target that an encoder-decoder accepts, in tokens."""
    causal: bool
    """Attention is causal: each position attends to earlier ones only (in an encoder-decoder, in the decoder)."""
    encoder_decoder: bool = False
    """The hidden states are those of a decoder. It reads `decoder_input_ids`, or the text shifted right if a head gives
    none, and attends to the whole text of the encoder at every position."""
    generates: bool = False
    """`generate` is implemented."""
    splits: bool = False
    """`lower` and `upper` are implemented."""
    packs: bool = False
    """`forward` packs several rows of a batch into one, so that strategies cannot route rows by position."""
    saves_pooled: bool = False
    """`save_pooled` is implemented."""
    quantization: str = ""
    """The number format of the trunk's linear layers (`QuantizedModule`); empty for plain ones. Only strategies that
    save an adapter go together with it."""
    pooling: TextPooling | None = None
    """How the checkpoint was trained to pool a text, as that of a sentence encoder was; None if it was not."""
    source: str
    """The folder or hub id of the weights, as an adapter names its base model; empty if no other library loads it by
    such a name."""

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the hidden states `[batch, seq, hidden]`.

        `inputs` holds `input_ids`, `attention_mask` and further inputs of the tokenizer, each `[batch, seq]`; for an
        encoder-decoder also `decoder_input_ids` and `decoder_attention_mask`, each `[batch, target seq]`.
        """

    def in_training(self) -> AbstractContextManager[None]:
        """Return a context for the training steps of a stage, in which the trunk may use fast paths: other kernels for
        the same function (see `hft_core.forward_override` and `hft_core.cpu_dropout`)."""
        return nullcontext()

    @property
    @abstractmethod
    def layers(self) -> Sequence[nn.Module]:
        """The trunk's layers, from the one after the embeddings upwards."""

    def lower(self, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """Run the first `depth` layers (at least one): `inputs` as for `forward` → `[batch, seq, hidden]`.

        With all layers this is `forward`. Required where `splits` is true.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot run part of its layers")

    def upper(self, hidden: Tensor, inputs: Mapping[str, Tensor], depth: int) -> Tensor:
        """Run the layers after the first `depth`: `upper(lower(inputs, depth), inputs, depth)` equals
        `forward(inputs)`.

        Values of `hidden` `[batch, seq, hidden]` at padding must not affect the result. Required where `splits` is
        true.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot run part of its layers")

    @property
    def language_model(self) -> LanguageModel | None:
        """The trunk's own LM head; None if its family has none."""
        return None

    def sequence_module(self, plain_class: str, **config: Any) -> SequenceModule | None:
        """Build the module that transformers' `plain_class` puts on this trunk, configured with `config` (such as
        `num_labels`); None if the family has no such class, so that the head makes a module itself."""
        return None

    def decoder_input_ids(self, labels: Sequence[int]) -> list[int]:
        """Return the decoder's input for predicting `labels`: shifted right, after the family's start token. Of
        encoder-decoders."""
        raise NotImplementedError(f"{type(self).__name__} is no encoder-decoder")

    def generate(self, inputs: Mapping[str, Tensor], *, max_new_tokens: int, seed: int = 0, **settings: Any) -> Tensor:
        """Generate a continuation of each text of `inputs`: `[batch, new tokens]`, padded on the right.

        `inputs`: `input_ids` and `attention_mask`, each `[batch, seq]`, padded on the right. `settings`: fields of
        transformers' `GenerationConfig`; greedy by default. Sampling depends on `seed` and the batch alone. Required
        where `generates` is true.
        """
        raise NotImplementedError(f"{type(self).__name__} does not generate")

    def pooler(self) -> Pooler | None:
        """Return a new module that pools a sequence as the checkpoint was trained to; None to leave pooling to the
        heads."""
        return None

    @abstractmethod
    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write the trunk with the weights `state` (under the names it was built with) and the tokenizer into `folder`,
        so that the library of its family, and this backbone, load it."""

    @abstractmethod
    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        """Write `folder` such that the family's own class loads the trunk saved in `trunk_folder` with one head.

        `module`: made by this backbone; `state`: its weights under the family's names (`plain_state`); `config`:
        settings of the family's configuration (such as `id2label`).
        """

    def save_pooled(self, folder: Path, output: PooledOutput, *, max_length: int, trunk_folder: Path | None) -> None:
        """Write into `folder` the files by which sentence-transformers computes `output`, which is all of a head, for
        texts of at most `max_length` tokens. Required where `saves_pooled` is true.

        `trunk_folder`: where the trunk was saved; None if `folder` holds an adapter.
        """
        raise NotImplementedError(f"{type(self).__name__} sets `saves_pooled` and does not implement `save_pooled`")

    @abstractmethod
    def load_task(self, folder: Path) -> dict[str, Tensor]:
        """Return the head's weights that `save_task` wrote, under the family's names."""

    @property
    @abstractmethod
    def trunk_prefix(self) -> str:
        """The trunk's attribute name in the family's own classes with a head (`bert`, `model`)."""

    def prefix_in(self, plain_class: str) -> str:
        """Return the prefix of the trunk's weights in the family's `plain_class` (`bert.`)."""
        return f"{self.trunk_prefix}."
