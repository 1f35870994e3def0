"""Compute a task's outputs with the family's own class, whose trunk is a stand-in (see `standin`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hft_core.backbone import FamilyModule, Features, LanguageModel, SequenceModule
from hft_plugins.backbones.behavior import Side
from hft_plugins.backbones.standin import Passthrough, stand_ins

MULTIPLE_CHOICE = "AutoModelForMultipleChoice"


class Whole(FamilyModule):
    """A plain class of transformers around a `Passthrough`."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        self.plain_class = plain_class
        self._trunk = (trunk,)  # no submodule of this one
        self._shown_as = ["inputs_embeds", *(["decoder_inputs_embeds"] if whole.config.is_encoder_decoder else [])]

    def outputs_of(self, hidden: Tensor, **inputs: Tensor) -> Any:
        """What the plain class gives for a trunk whose hidden states are `hidden`."""
        return self.whole(**inputs, **dict.fromkeys(self._shown_as, hidden))

    def plain_state(self, *, tied: bool = False) -> dict[str, Tensor]:
        skipped = frozenset() if tied else frozenset(id(p) for p in self._trunk[0].parameters())
        own = {name: p for name, p in self.whole.named_parameters(remove_duplicate=not tied) if id(p) not in skipped}
        return {**own, **dict(self.whole.named_buffers())}

    def load_plain_state(self, state: Mapping[str, Tensor]) -> None:
        own, known = self.plain_state(), self.plain_state(tied=True)
        wrong = sorted((set(own) - set(state)) | (set(state) - set(known)))
        if wrong:
            raise ValueError(f"head weights are missing or not known: {', '.join(wrong)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
        for name in state.keys() - own.keys():
            if not torch.equal(state[name], known[name]):
                self._untie(name, state[name])

    def _untie(self, name: str, tensor: Tensor) -> None:
        """T5 1.1 has an LM head of its own, but a configuration that ties it where the files lack it, as a trunk's."""
        module, _, attribute = name.rpartition(".")
        setattr(self.whole.get_submodule(module), attribute, nn.Parameter(tensor.clone()))


class HfLanguageModel(Whole, LanguageModel):
    """The LM head of a plain class."""

    def __init__(self, whole: PreTrainedModel, plain_class: str, trunk: nn.Module, pretrained: bool) -> None:
        super().__init__(whole, plain_class, trunk)
        self.pretrained = pretrained

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.outputs_of(hidden.unsqueeze(0)).logits
        return logits.squeeze(0)


class HfSequenceModule(Whole, SequenceModule):
    """What a plain class has above its trunk."""

    pads: Side = "right"
    """The side on which the class expects padding: XLNet's looks at the last position."""
    takes_unequal_ends = True
    """False: the class takes rows together only where they have equally many end tokens (T5's, BART's)."""

    def forward(self, features: Features) -> Tensor:
        if self.takes_unequal_ends or len(features.input_ids) == 1:
            return self._padded_its_way(features)
        ends = (features.input_ids == self.whole.config.eos_token_id).sum(dim=1)
        if bool((ends == ends[0]).all()):
            return self._padded_its_way(features)
        groups = [torch.nonzero(ends == count).flatten() for count in ends.unique()]
        outputs = [self._padded_its_way(_rows(features, rows)) for rows in groups]
        return torch.cat(outputs)[torch.cat(groups).argsort()]

    def _padded_its_way(self, features: Features) -> Tensor:
        if self.pads == "right":
            return self.logits(features)
        width, lengths = features.input_ids.shape[1], features.attention_mask.sum(dim=1, keepdim=True).long()
        places = torch.arange(width, device=lengths.device)
        outputs = self.logits(_moved(features, (places + lengths) % width))
        if outputs.ndim == 2:
            return outputs
        back = ((places - lengths) % width).unsqueeze(-1).expand_as(outputs)
        return outputs.gather(1, back)

    def logits(self, features: Features) -> Tensor:
        """`[batch, labels]` or `[batch, seq, labels]`, from rows that are padded as the class expects them."""
        outputs = self.outputs_of(features.hidden, input_ids=features.input_ids, attention_mask=features.attention_mask)
        if "start_logits" in outputs:  # question answering: where the answer starts and ends, `[batch, seq, 2]`
            return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
        logits: Tensor = outputs.logits
        return logits

    def pool(self, hidden: Tensor) -> Tensor | None:
        pooling = self._stand_in_with_pooler
        return None if pooling is None else pooling(inputs_embeds=hidden).pooler_output

    def pooler_parameters(self) -> list[nn.Parameter]:
        pooling = self._stand_in_with_pooler
        return [] if pooling is None else list(pooling.parameters())

    @property
    def _stand_in_with_pooler(self) -> Passthrough | None:
        return next((stand_in for stand_in in stand_ins(self.whole) if stand_in.pooler is not None), None)

    @property
    def has_extra_inputs(self) -> bool:
        """The class gave its trunk inputs that the trunk is not given here (Longformer's global attention), so that its
        hidden states are others."""
        return any(stand_in.extra_inputs for stand_in in stand_ins(self.whole))


class HfChoiceModule(HfSequenceModule):
    """What a plain class for multiple choice has above its trunk. That class takes `[batch, choices, seq]`; here each
    choice is a sequence of its own, so that questions may have different numbers of choices: → `[batch, 1]`."""

    def logits(self, features: Features) -> Tensor:
        alone = (features.hidden, features.input_ids, features.attention_mask)
        return super().logits(Features(*(tensor.unsqueeze(1) for tensor in alone)))


def _rows(features: Features, rows: Tensor) -> Features:
    return Features(features.hidden[rows], features.input_ids[rows], features.attention_mask[rows])


def _moved(features: Features, places: Tensor) -> Features:
    """The features with what is at `places` `[batch, seq]` of each row, from left to right."""
    hidden = features.hidden.gather(1, places.unsqueeze(-1).expand_as(features.hidden))
    return Features(hidden, features.input_ids.gather(1, places), features.attention_mask.gather(1, places))
