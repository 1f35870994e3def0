"""A forward pass in two parts equals the whole pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hft_core.backbone import Backbone
from hft_core.forward_override import is_overridden
from hft_plugins.backbones import decoder, encoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, Seq2SeqOptions

ENCODERS = ("bert", "distilbert", "roberta", "modernbert", "splinter")
DECODERS = ("llama", "gpt2")


def opened(name: str, models: Any) -> Backbone:
    path = str(models[name])
    if name in DECODERS:
        return decoder.build(DecoderOptions(model=path))
    return encoder.build(EncoderOptions(model=path))


def batch(backbone: Backbone) -> dict[str, Tensor]:
    texts = ["the cat followed the dog near the old river", "the bank"]
    return dict(backbone.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_the_two_parts_are_bit_identical_to_the_whole_pass(name: str, models: Any) -> None:
    backbone = opened(name, models)
    backbone.trunk.eval()
    inputs = batch(backbone)
    layers = list(backbone.layers)
    whole = backbone.forward(inputs)
    for depth in range(1, len(layers) + 1):
        lower = backbone.lower(inputs, depth)
        assert torch.equal(backbone.upper(lower, inputs, depth), whole)
        assert list(backbone.layers) == layers
        real = inputs["attention_mask"].bool()
        assert torch.equal(backbone.upper(lower * real.unsqueeze(-1), inputs, depth)[real], whole[real])


@pytest.mark.parametrize("name", [*ENCODERS, *DECODERS])
def test_gradients_of_the_upper_part_are_those_of_the_whole_pass(name: str, models: Any) -> None:
    backbone = opened(name, models)
    backbone.trunk.eval()
    inputs = batch(backbone)
    trained = list(backbone.layers[1].parameters())
    expected = torch.autograd.grad(backbone.forward(inputs).square().sum(), trained)
    with torch.no_grad():
        lower = backbone.lower(inputs, 1)
    fresh = opened(name, models)  # one that has never made the lower part
    fresh.trunk.eval()
    gradients = torch.autograd.grad(fresh.upper(lower, inputs, 1).square().sum(), list(fresh.layers[1].parameters()))
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


def test_an_encoder_decoder_does_not_split(models: Any) -> None:
    backbone = seq2seq.build(Seq2SeqOptions(model=str(models["t5"])))
    assert not backbone.splits


def test_the_layers_are_back_after_an_error_inside(models: Any) -> None:
    backbone = opened("bert", models)
    layers = list(backbone.layers)
    with pytest.raises(IndexError):
        backbone.lower({"input_ids": torch.tensor([[10**6]])}, 1)
    assert list(backbone.layers) == layers
    assert not any(is_overridden(layer) for layer in layers)
