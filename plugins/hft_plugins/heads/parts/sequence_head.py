"""Share what heads with one output vector per text or pair of texts have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hft_core import options
from hft_core.backbone import Backbone, FamilyModule, Features, PooledOutput, SequenceModule
from hft_core.head import Column, Draw, Encoded, Head, Targets, TextWindows
from hft_plugins.heads.parts import windows
from hft_plugins.heads.parts.pooling import Pool, PooledLinear
from hft_plugins.heads.parts.sequence_scorer import UNRECORDED, PoolingOption, sequence_scorer

PLAIN_CLASS = "AutoModelForSequenceClassification"


POOLING_FIELD: Any = Field(
    default="auto",
    description="how a text becomes one vector: the checkpoint's pre-trained pooler, the first token (cls), the mean "
    "or maximum over tokens, the last token, a mean with learned weights (attention), or what suits the model (auto)",
)


class SequenceOptions(options.Options):
    """Options of the columns."""

    text: str | tuple[str, str] = Field(default="text", description="column of the text, or two columns for a pair")
    label: str = Field(default="label", description="column of the label")
    pooling: PoolingOption = POOLING_FIELD

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if isinstance(self.text, str) else self.text


class WindowedOptions(SequenceOptions):
    """Options of heads that can read a text in windows."""

    window: windows.Window | None = Field(
        default=None,
        description="read a text (the second of a pair) of more than max_length tokens in windows of max_length, "
        "instead of cutting it",
    )


class ScoringHead(Head):
    """One vector of outputs a sequence, by the family's own module where it has one."""

    def __init__(self, task: str, window: windows.Window | None = None) -> None:
        """`window`: how long texts are divided, whose windows' outputs become those of the text."""
        super().__init__(task)
        self.scorer: nn.Module | None = None
        self.window = window
        self.predicts_units = self.chunks_long_texts = window is not None

    def attach_outputs(
        self, backbone: Backbone, outputs: int, pooling: PoolingOption, plain_class: str = PLAIN_CLASS
    ) -> None:
        """Build the module that scores `[batch, outputs]`; an earlier choice of pooling in `facts` stays."""
        scorer = sequence_scorer(backbone, outputs, plain_class, self.facts.get("pooling", pooling))
        self.scorer = scorer.module
        self.facts = {**self.facts, "pooling": scorer.choice}

    def restore(self, facts: Mapping[str, Any]) -> None:
        self.facts = {"pooling": UNRECORDED, **facts}

    def raw_outputs(self, features: Features) -> Tensor:
        """`[batch, outputs]`, in float32: losses and softmax lose too much in bfloat16."""
        assert self.scorer is not None, "attach comes first"
        outputs: Tensor = self.scorer(features)
        return outputs.float()

    def encode_texts(
        self, texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Encoded:
        """Tokenize texts or pairs (one or two columns): cut at `max_length`, or in windows."""
        if self.window is not None:
            return windows.encode(texts, tokenizer, max_length, self.window)
        sequences, extra = tokenize_texts(texts, tokenizer, max_length)
        return Encoded(sequences, list(range(len(sequences))), extra=extra)

    def of_rows(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Return the outputs of each text, `[rows, …]`, from those of its windows, `[examples, …]`."""
        if self.window is None:
            return outputs
        return windows.pooled(outputs, targets.tensors[windows.POSITION], self.window.pool)

    def pretrained_parameters(self) -> list[nn.Parameter]:
        if not isinstance(self.scorer, SequenceModule) or not self.scorer.pooler_is_pretrained:
            return []
        return self.scorer.pooler_parameters()

    def input_scale(self, features: Features) -> float | None:
        layer = self._only_fresh_layer()
        if layer is None:
            return None
        inputs: list[Tensor] = []
        with layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0])):
            self.raw_outputs(features)
        (values,) = inputs
        if values.ndim == 3:  # one vector a token: not those of padding
            values = values[features.attention_mask.bool()]
        return float(values.float().square().mean().sqrt())

    def _only_fresh_layer(self) -> nn.Linear | None:
        """Return the linear layer that has all of the head's fresh weights; None if there are more."""
        assert self.scorer is not None, "attach comes first"
        known = {id(parameter) for parameter in self.pretrained_parameters()}
        fresh = {id(parameter) for parameter in self.scorer.parameters()} - known
        layers = [module for module in self.scorer.modules() if isinstance(module, nn.Linear)]
        return next((layer for layer in layers if {id(p) for p in layer.parameters()} == fresh), None)

    def pooled_output(self) -> PooledOutput | None:
        scorer = self.scorer
        if not isinstance(scorer, PooledLinear) or not isinstance(scorer.pool, Pool):
            return None
        layer = self.export_state(scorer.output.state_dict())
        return PooledOutput(scorer.pool.pooling, layer["weight"], layer["bias"])

    @property
    def family(self) -> FamilyModule | None:
        return self.scorer if isinstance(self.scorer, FamilyModule) else None


def single_output_layer(state: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the weight `[1, hidden]` and bias `[1]` of the layer that computes a head's single output."""
    return {n for n, tensor in state.items() if tensor.is_floating_point() and tensor.ndim and tensor.shape[0] == 1}


def tokenize_texts(
    texts: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], dict[str, list[Any]]]:
    """Token ids of texts, or of pairs (`texts` holds one or two columns), and the trunk's further inputs by name."""
    encoding = tokenizer(*map(list, texts), truncation=True, max_length=max_length, return_attention_mask=False)
    extra = {"token_type_ids": encoding["token_type_ids"]} if "token_type_ids" in encoding else {}
    return encoding["input_ids"], extra


class SequenceHead(ScoringHead):
    """A text or a pair in, one vector `[outputs]` out."""

    target_dtype: torch.dtype

    def __init__(self, task: str, options: SequenceOptions) -> None:
        super().__init__(task, options.window if isinstance(options, WindowedOptions) else None)
        self.columns_read = options

    @abstractmethod
    def targets_of(self, cells: Sequence[Any]) -> list[int] | list[float]:
        """Return the targets of label cells."""

    def encode(self, rows: Mapping[str, Sequence[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        encoded = self.encode_texts([rows[name] for name in self.columns_read.texts], tokenizer, max_length)
        cells = rows.get(self.columns_read.label)
        if cells is not None:
            of_rows = self.targets_of(cells)
            encoded.targets["target"] = [of_rows[row] for row in encoded.rows]
        return encoded

    def text_windows(self) -> TextWindows | None:
        if self.window is None or len(self.columns_read.texts) > 1:
            return None
        return TextWindows(self.window.stride, self.window.most, self.window.pool)

    def text_columns(self) -> list[Column]:
        return [Column(name, "text") for name in self.columns_read.texts]

    def collate(
        self, sequences: list[list[int]], targets: Mapping[str, list[Any]], examples: Sequence[int], draw: Draw
    ) -> tuple[list[list[int]], Targets]:
        tensor, position = windows.of_rows(targets, self.target_dtype)
        return sequences, Targets(len(tensor), {"target": tensor, **position})

    def references(self, targets: Mapping[str, Sequence[Any]]) -> Sequence[Any]:
        return targets["target"]
