"""`my-plugin`: a small encoder from scratch.

Put your own trunk here. `hft_core.backbone.Backbone` says what the core asks of one, and what it may offer besides: its
own LM head, modules of its family's classes, a pooler, generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from hft_core import options
from hft_core.backbone import Backbone, FamilyModule
from hft_core.errors import ModelError

WEIGHTS = "my-plugin.safetensors"
"""The trunk's weights, beside the files of its tokenizer."""


class Options(options.BackboneOptions):
    """`model` is a folder or hub id with a tokenizer; where it has no weights of this trunk, they are random."""

    hidden_size: int = Field(default=128, gt=0, description="numbers that stand for a token; a multiple of heads")
    layers: int = Field(default=2, gt=0, description="layers of the trunk")
    heads: int = Field(default=4, gt=0, description="attention heads of a layer")
    max_length: int = Field(default=128, gt=0, description="longest sequence, in tokens")


class Trunk(nn.Module):
    """Token and position embeddings, and torch's transformer layers."""

    def __init__(self, options: Options, vocabulary: int) -> None:
        super().__init__()
        size = options.hidden_size
        self.tokens = nn.Embedding(vocabulary, size)
        self.positions = nn.Embedding(options.max_length, size)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(size, options.heads, 4 * size, batch_first=True, norm_first=True)
            for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`[batch, seq]` → `[batch, seq, hidden]`."""
        hidden = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=attention_mask == 0)
        normed: Tensor = self.norm(hidden)
        return normed


class MyPluginBackbone(Backbone):
    """The trunk with a tokenizer."""

    trunk: Trunk
    causal = False
    source = ""  # no other library opens what `save` writes
    trunk_prefix = ""

    def __init__(self, options: Options) -> None:
        """Raises `ModelError` when the tokenizer or the weights cannot be read."""
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(options.model)
            self.trunk = Trunk(options, len(self.tokenizer))
            weights = Path(options.model) / WEIGHTS
            if weights.is_file():
                self.trunk.load_state_dict(load_file(weights))
        except Exception as error:  # a damaged file raises what its library likes
            raise ModelError(f"model '{options.model}': cannot be opened: {' '.join(str(error).split())}") from error
        if self.tokenizer.pad_token_id is None:
            raise ModelError(f"model '{options.model}': its tokenizer has no padding token")
        self.hidden_size = options.hidden_size
        self.max_length = min(options.max_length, self.tokenizer.model_max_length)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hidden states `[batch, seq, hidden]`."""
        hidden: Tensor = self.trunk(inputs["input_ids"], inputs["attention_mask"])
        return hidden

    @property
    def layers(self) -> Sequence[nn.Module]:
        """From the embeddings upwards."""
        return list(self.trunk.layers)

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write what `Options.model` can name."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
        self.tokenizer.save_pretrained(folder)

    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        """Never called: heads bring their own modules, since this trunk is of no family (`sequence_module`)."""
        raise NotImplementedError(f"{type(self).__name__} makes no modules for heads")

    def load_task(self, folder: Path) -> dict[str, Tensor]:
        """Never called, as `save_task`."""
        raise NotImplementedError(f"{type(self).__name__} makes no modules for heads")


def build(options: Options, *, trust_remote_code: bool) -> MyPluginBackbone:
    """Called once a run. There is no remote code that could be trusted."""
    return MyPluginBackbone(options)
