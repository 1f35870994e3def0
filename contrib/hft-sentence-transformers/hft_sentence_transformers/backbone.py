"""`sentence-transformers`: the transformer of a folder as the trunk, with the folder's own pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import normalizers
from torch import Tensor, nn

from hft_core.backbone import Backbone, FamilyModule, LanguageModel, Pooler, SequenceModule
from hft_core.errors import ModelError
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import BACKBONES, DecoderOptions, backbone_of
from hft_sentence_transformers import pooling
from hft_sentence_transformers.folder import SentenceFolder, find, read
from hft_sentence_transformers.options import Options

POOLED = ("AutoModelForSequenceClassification", "AutoModelForMultipleChoice")
"""Plain classes that score one vector of a text, which here is the folder's and not theirs."""


class SentenceTransformersBackbone(Backbone):
    """A backbone of transformers, which does everything but what the folder adds: pooling, length, case, and the files
    that make a saved trunk a folder of sentence-transformers again."""

    def __init__(self, folder: SentenceFolder, transformer: Backbone) -> None:
        """Raises `ModelError` when the folder's modules and the transformer do not go together."""
        self.folder = folder
        self.transformer = transformer
        self.trunk = transformer.trunk
        self.tokenizer = transformer.tokenizer
        self.hidden_size = transformer.hidden_size
        self.max_length = int(
            min(transformer.max_length, folder.settings.get("max_seq_length") or transformer.max_length)
        )
        self.causal = transformer.causal
        self.source = transformer.source
        if folder.settings.get("do_lower_case"):
            _lower(self.tokenizer)
        self.pooler()  # what cannot be read is said now

    def pooler(self) -> Pooler:
        return pooling.pooler(self.folder.steps, self.hidden_size)

    def sequence_module(self, plain_class: str, **config: Any) -> SequenceModule | None:
        """None for what scores one vector of a text: heads then put a linear layer on `pooler`."""
        return None if plain_class in POOLED else self.transformer.sequence_module(plain_class, **config)

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """A folder that sentence-transformers, transformers and this backbone open."""
        self.transformer.save(folder, state)
        self.folder.write_beside(folder)

    # --- as the transformer has it

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.transformer.forward(inputs)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self.transformer.layers

    @property
    def language_model(self) -> LanguageModel | None:
        return self.transformer.language_model

    def save_task(
        self,
        folder: Path,
        trunk_folder: Path,
        module: FamilyModule,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
    ) -> None:
        self.transformer.save_task(folder, trunk_folder, module, state, config)

    def load_task(self, folder: Path) -> dict[str, Tensor]:
        return self.transformer.load_task(folder)

    @property
    def trunk_prefix(self) -> str:
        return self.transformer.trunk_prefix

    def prefix_in(self, plain_class: str) -> str:
        return self.transformer.prefix_in(plain_class)


def build(options: Options, *, trust_remote_code: bool = False) -> SentenceTransformersBackbone:
    """Open the folder, or hub id, that `options.model` names.

    Raises `ModelError` when it cannot be opened or has modules that are not known here.
    """
    folder = read(find(options.model, options.revision))
    place = str(folder.transformer)
    kind = backbone_of(place)
    if kind not in ("hf-encoder", "hf-decoder"):
        what = BACKBONES.get(kind, "nothing that transformers opens")
        raise ModelError(f"model '{options.model}': its transformer is {what}, expected an encoder or a decoder")
    inside = DecoderOptions(**{**options.model_dump(), "model": place, "revision": None})
    build_transformer = encoder.build if kind == "hf-encoder" else decoder.build
    made = SentenceTransformersBackbone(folder, build_transformer(inside, trust_remote_code=trust_remote_code))
    if not Path(options.model).is_dir() and folder.transformer == folder.root:
        made.source = options.model  # an adapter names the hub id, which is good on other machines too
    return made


def _lower(tokenizer: Any) -> None:
    """Let the tokenizer lower its texts first, where it does not yet."""
    found = tokenizer.backend_tokenizer.normalizer
    if found is None or found.normalize_str("A") != "a":
        parts = [normalizers.Lowercase(), *([] if found is None else [found])]
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(parts)
