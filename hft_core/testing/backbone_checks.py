"""Check backbones with tiny models."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from hft_core.backbone import Backbone, Features
from hft_core.testing import toys, trunks
from hft_core.testing.check import Check, NotClaimed, Subject, check, expect

CHECKS: list[Check] = []
TOLERANCE = 1e-4
PATH = "PATH"
"""In a spec's `example`: the folder of a tiny model."""
SEQUENCE_CLASS = "AutoModelForSequenceClassification"


def models(subject: Subject) -> Iterator[tuple[str, Path | None]]:
    """List names and folders of the tiny models that the backbone opens; no folder where its example needs none."""
    example = dict(subject.spec.example)
    if PATH not in example.values():
        yield "its example", None
        return
    write = subject.catalogue.load_example(subject.entry, "example_model")
    if write is not None:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place))
            yield "its example model", Path(place)
        return
    opens = subject.catalogue.load_opens(subject.entry)
    found = [family for family in trunks.FAMILIES if opens is None or opens(str(trunks.folder(family)))]
    expect(bool(found), f"a tiny {', '.join(trunks.FAMILIES)} that it opens, or `example_model`", "neither")
    for family in found:
        yield family, trunks.folder(family)


def built(subject: Subject, model: Path | None) -> Backbone:
    """Build the backbone on a model, in evaluation mode."""
    torch.manual_seed(1)
    example = {key: str(model) if value == PATH else value for key, value in subject.spec.example.items()}
    backbone: Backbone = subject.catalogue.load_factory(subject.entry)(
        subject.options(example), trust_remote_code=False
    )
    backbone.trunk.eval()
    return backbone


def backbones(subject: Subject) -> Iterator[tuple[str, Backbone]]:
    """Build the backbone on each of its tiny models."""
    for name, model in models(subject):
        yield name, built(subject, model)


def inputs_of(backbone: Backbone, width: int | None = None) -> dict[str, Tensor]:
    """Encode four texts of different lengths, padded to the longest or to `width`."""
    random = np.random.default_rng(5)
    texts = [toys.sentence(i % 2, random) for i in range(4)]
    padding: dict[str, Any] = {"padding": True} if width is None else {"padding": "max_length", "max_length": width}
    return dict(backbone.tokenizer(texts, padding_side="right", return_tensors="pt", **padding))


def hidden_of(backbone: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return backbone.forward(inputs)


@check("backbone", CHECKS)
def it_opens_its_models_and_nothing_else(subject: Subject) -> None:
    """`opens` is True for folders that the backbone opens, and False for a path that does not exist."""
    opens = subject.catalogue.load_opens(subject.entry)
    if opens is None:
        raise NotClaimed("the spec has no `opens`")
    for name, model in models(subject):
        if model is not None:
            expect(opens(str(model)) is True, f"{name}: opens(…) to be True", opens(str(model)))
    expect(opens("/no/such/model") is False, "opens('/no/such/model') to be False", opens("/no/such/model"))


@check("backbone", CHECKS)
def hidden_states_have_their_shape(subject: Subject) -> None:
    """`forward` returns finite `[batch, seq, hidden_size]` in float32, and in evaluation mode the same twice."""
    for name, backbone in backbones(subject):
        inputs = inputs_of(backbone)
        hidden = hidden_of(backbone, inputs)
        wanted = (*inputs["input_ids"].shape, backbone.hidden_size)
        expect(tuple(hidden.shape) == wanted, f"{name}: the shape {wanted}", tuple(hidden.shape))
        expect(hidden.dtype == torch.float32, f"{name}: float32", hidden.dtype)
        expect(bool(torch.isfinite(hidden).all()), f"{name}: finite hidden states", "some that are not")
        expect(torch.equal(hidden, hidden_of(backbone, inputs)), f"{name}: equal bytes twice", "different ones")


@check("backbone", CHECKS)
def padding_changes_nothing(subject: Subject) -> None:
    """Hidden states do not depend on the amount of padding, nor on the other texts of the batch."""
    for name, backbone in backbones(subject):
        inputs = inputs_of(backbone)
        hidden, width = hidden_of(backbone, inputs), inputs["input_ids"].shape[1]
        wide = hidden_of(backbone, inputs_of(backbone, min(width + 7, backbone.max_length)))
        real = inputs["attention_mask"].bool()
        gap = float((hidden - wide[:, :width])[real].abs().max())
        expect(gap <= TOLERANCE, f"{name}: equal hidden states with more padding", f"a difference of {gap}")
        length = int(real[0].sum())
        alone = hidden_of(backbone, {key: tensor[:1, :length] for key, tensor in inputs.items()})
        gap = float((hidden[:1, :length] - alone).abs().max())
        expect(gap <= TOLERANCE, f"{name}: equal hidden states of a text alone", f"a difference of {gap}")


@check("backbone", CHECKS)
def causal_is_true(subject: Subject) -> None:
    """A different last token (of an encoder-decoder: of the decoder's input) changes earlier hidden states if and only
    if `causal` is False."""
    for name, backbone in backbones(subject):
        inputs = {key: tensor[:1] for key, tensor in inputs_of(backbone).items()}
        length = int(inputs["attention_mask"].sum())
        inputs = {key: tensor[:, :length] for key, tensor in inputs.items()}
        read = "decoder_input_ids" if backbone.encoder_decoder else "input_ids"
        inputs[read] = inputs["input_ids"]
        other = {**inputs, read: inputs[read].clone()}
        other[read][0, -1] = (other[read][0, -1] + 7) % len(backbone.tokenizer)
        before, after = hidden_of(backbone, inputs)[0, :-1], hidden_of(backbone, other)[0, :-1]
        blind = torch.allclose(before, after, atol=1e-5)
        expect(blind == backbone.causal, f"{name}: causal={blind}, as its hidden states behave", backbone.causal)


@check("backbone", CHECKS)
def the_longest_text_passes(subject: Subject) -> None:
    """`forward` accepts `max_length` tokens (at most 512 are tried), and the tokenizer has a padding token."""
    for name, backbone in backbones(subject):
        expect(backbone.tokenizer.pad_token_id is not None, f"{name}: a padding token", "none")
        width = min(backbone.max_length, 512)
        hidden = hidden_of(backbone, inputs_of(backbone, width))
        expect(hidden.shape[1] == width, f"{name}: {width} positions", hidden.shape[1])


@check("backbone", CHECKS)
def layers_are_in_order(subject: Subject) -> None:
    """`layers` are modules of the trunk, in the order in which `forward` calls them."""
    for name, backbone in backbones(subject):
        layers = list(backbone.layers)
        inside = {id(module) for module in backbone.trunk.modules()}
        expect(bool(layers), f"{name}: layers", "none")
        foreign = sum(id(layer) not in inside for layer in layers)
        expect(not foreign, f"{name}: layers that are the trunk's modules", f"{foreign} that are not")
        called: list[int] = []
        with ExitStack() as hooks:
            for i, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(partial(_note, called, i)).remove)
            hidden_of(backbone, inputs_of(backbone))
        expect(called == list(range(len(layers))), f"{name}: layers called in the order 0 … {len(layers) - 1}", called)


def _note(called: list[int], number: int, *_: Any) -> None:
    """Record the index of the layer that the hook is on."""
    called.append(number)


@check("backbone", CHECKS)
def the_trunk_trains(subject: Subject) -> None:
    """In training mode, every layer and the embeddings get a gradient."""
    for name, backbone in backbones(subject):
        backbone.trunk.train()
        backbone.trunk.requires_grad_(True)
        backbone.forward(inputs_of(backbone)).pow(2).mean().backward()  # type: ignore[no-untyped-call]
        for i, layer in enumerate(backbone.layers):
            moved = any(p.grad is not None and bool((p.grad != 0).any()) for p in layer.parameters())
            expect(moved, f"{name}: a gradient in layer {i}", "none")
        in_layers = {id(p) for layer in backbone.layers for p in layer.parameters()}
        below = [p for p in backbone.trunk.parameters() if id(p) not in in_layers and p.grad is not None]
        expect(bool(below), f"{name}: a gradient beside the layers", "none")


@check("backbone", CHECKS)
def what_is_saved_opens_again(subject: Subject) -> None:
    """A trunk with changed weights, saved and opened again, has equal hidden states and an equal tokenizer."""
    for name, backbone in backbones(subject):
        if PATH not in subject.spec.example.values():
            raise NotClaimed("the example names no folder to open")
        inputs = inputs_of(backbone)
        before = _moved(backbone, inputs)
        with tempfile.TemporaryDirectory() as place:
            backbone.save(Path(place), backbone.trunk.state_dict())
            again = built(subject, Path(place))
            same = all(torch.equal(tensor, inputs_of(again)[key]) for key, tensor in inputs.items())
            expect(same, f"{name}: the same tokens", "other ones")
            gap = float((before - hidden_of(again, inputs)).abs().max())
        expect(gap <= 1e-6, f"{name}: equal hidden states after loading", f"a difference of {gap}")


@check("backbone", CHECKS)
def what_is_saved_opens_in_transformers(subject: Subject) -> None:
    """If the saved folder has a transformers configuration, `AutoModel` opens it with equal hidden states."""
    for name, backbone in backbones(subject):
        inputs = inputs_of(backbone)
        if backbone.encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        before = _moved(backbone, inputs)
        with tempfile.TemporaryDirectory() as place:
            backbone.save(Path(place), backbone.trunk.state_dict())
            config = Path(place) / "config.json"
            if not (config.exists() and "model_type" in json.loads(config.read_text(encoding="utf-8"))):
                raise NotClaimed("what it saves is not a folder of transformers")
            plain = transformers.AutoModel.from_pretrained(place).eval()
        with torch.no_grad():
            gap = float((before - plain(**inputs).last_hidden_state).abs().max())
        expect(gap <= 1e-5, f"{name}: equal hidden states in transformers", f"a difference of {gap}")


def _moved(backbone: Backbone, inputs: dict[str, Tensor]) -> Tensor:
    """Change the weights a little, so that they differ from the opened ones, and return the hidden states."""
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return hidden_of(backbone, inputs)


@check("backbone", CHECKS)
def the_language_model_scores_the_vocabulary(subject: Subject) -> None:
    """The trunk's own LM head returns finite logits `[n, vocabulary]`; its state is unchanged by saving and loading."""
    for name, backbone in backbones(subject):
        module = backbone.language_model
        if module is None:
            raise NotClaimed("the trunk has no LM head")
        hidden = hidden_of(backbone, inputs_of(backbone))[:, 1]
        with torch.no_grad():
            logits = module(hidden)
        expect(len(logits) == len(hidden), f"{name}: {len(hidden)} rows of logits", len(logits))
        size = len(backbone.tokenizer)
        expect(logits.shape[1] >= size, f"{name}: logits of {size} tokens or more", logits.shape[1])
        expect(bool(torch.isfinite(logits).all()), f"{name}: finite logits", "some that are not")
        _expect_state_again(name, module)


@check("backbone", CHECKS)
def a_sequence_module_is_that_of_its_plain_class(subject: Subject) -> None:
    """The module of `sequence_module`, saved with the trunk by `save_task`, has equal logits in its transformers
    class."""
    for name, backbone in backbones(subject):
        module = backbone.sequence_module(SEQUENCE_CLASS, num_labels=3)
        if module is None:
            raise NotClaimed(f"the family has no {SEQUENCE_CLASS}")
        module.eval()
        inputs = inputs_of(backbone)
        features = Features(_moved(backbone, inputs), inputs["input_ids"], inputs["attention_mask"])
        with torch.no_grad():
            logits = module(features)
        expect(tuple(logits.shape) == (4, 3), f"{name}: logits of the shape (4, 3)", tuple(logits.shape))
        _expect_state_again(name, module)
        with tempfile.TemporaryDirectory() as place:
            trunk, task = Path(place) / "trunk", Path(place) / "task"
            backbone.save(trunk, backbone.trunk.state_dict())
            backbone.save_task(task, trunk, module, module.plain_state(), {"num_labels": 3})
            kept = backbone.load_task(task)
            plain = getattr(transformers, SEQUENCE_CLASS).from_pretrained(task).eval()
            with torch.no_grad():
                gap = float((plain(**inputs).logits - logits).abs().max())
        expect(gap <= 1e-5, f"{name}: equal logits in {SEQUENCE_CLASS}", f"a difference of {gap}")
        odd = sorted(kept.keys() ^ module.plain_state().keys())
        expect(not odd, f"{name}: the saved weights of the module", f"other names: {', '.join(odd[:3])}")


def _expect_state_again(name: str, module: Any) -> None:
    """Raise `Failed` unless `load_plain_state` restores what `plain_state` returned, and rejects an unknown name."""
    state = {key: tensor.detach().clone() for key, tensor in module.plain_state().items()}
    if state:
        with torch.no_grad():
            for tensor in module.plain_state().values():
                tensor.zero_()
        module.load_plain_state(state)
        lost = [key for key, tensor in module.plain_state().items() if not torch.equal(tensor, state[key])]
        expect(not lost, f"{name}: its own state after loading it", f"{len(lost)} other tensors: {', '.join(lost[:3])}")
    try:
        module.load_plain_state({**state, "no.such.weight": torch.zeros(1)})
    except ValueError:
        return
    expect(False, f"{name}: a ValueError for the weight 'no.such.weight'", "that it was accepted")
