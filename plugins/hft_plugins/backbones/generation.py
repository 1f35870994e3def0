"""Generate texts by a plain class of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hft_plugins.backbones.pretrained import quiet

GREEDY = {"do_sample": False, "num_beams": 1}
"""Defaults that override the checkpoint's, so that scores are deterministic."""


def generate(model: PreTrainedModel, inputs: Mapping[str, Tensor], *, pad: int, seed: int, **settings: Any) -> Tensor:
    """`[batch, new tokens]`: what `model` writes after each text of `inputs` (padded on the right), without the text.

    `settings` go to transformers' `generate`; what they leave open is as in the checkpoint's generation settings, but
    greedy. Random choices are drawn from a generator of their own that starts at `seed`.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    started = 1  # the decoder's start token
    if not model.config.is_encoder_decoder:
        ids, mask = _padded_on_the_left(ids, mask)
        started = ids.shape[1]
    devices = [ids.device] if ids.device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        writer: Any = model
        written: Tensor = writer.generate(
            input_ids=ids, attention_mask=mask, pad_token_id=pad, **{**GREEDY, **settings}
        )
    return written[:, started:]


def _padded_on_the_left(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A decoder continues from the last position, which has to be the text's last token in every row."""
    width = ids.shape[1]
    places = (torch.arange(width, device=ids.device) + mask.sum(dim=1, keepdim=True)) % width
    return ids.gather(1, places), mask.gather(1, places)
