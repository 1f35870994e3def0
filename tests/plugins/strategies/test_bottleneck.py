"""Bottleneck adapters shared by all tasks: where they are, what they compute, what is saved of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from hft_core.errors import PluginError
from hft_plugins.backbones import decoder, encoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, Seq2SeqOptions, opens_decoder
from hft_plugins.strategies.bottleneck import shared, sublayers
from hft_plugins.strategies.bottleneck.layers import places

MODELS = ["bert", "roberta", "distilbert", "modernbert", "llama", "gpt2", "t5", "bart"]
KINDS = ["houlsby", "pfeiffer", "parallel"]


def opened(models: Any, name: str) -> Any:
    path = str(models[name])
    if name in ("t5", "bart"):
        return seq2seq.build(Seq2SeqOptions(model=path, dropout=0.0))
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def applied(backbone: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    strategy = shared.build(shared.Options(**options))
    strategy.apply(backbone, ("t",))
    return strategy


def hidden_states(strategy: Any, backbone: Any, rows: list[dict[str, Any]]) -> Tensor:
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return strategy.forward(backbone, dict(inputs), [("t", slice(0, len(rows)))])  # type: ignore[no-any-return]


def bare_states(backbone: Any, rows: list[dict[str, Any]]) -> Tensor:
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return backbone.forward(dict(inputs))  # type: ignore[no-any-return]


def randomise(backbone: Any) -> None:
    """Give the adapters weights as if they had been trained."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.trunk.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))


def adapter_of(state: dict[str, Tensor], place: str, activation: Any, scaling: float) -> Any:
    """scaling · (f(x W_down + b) W_up + b), from the saved weights of one place."""
    down, up = (state[f"{place}.{part}.weight"] for part in ("down", "up"))
    down_bias, up_bias = (state[f"{place}.{part}.bias"] for part in ("down", "up"))
    return lambda x: scaling * (activation(x @ down.T + down_bias) @ up.T + up_bias)


# --- what the papers compute


def bert_layer(layer: Any, x: Tensor, kind: str, at_attention: Any, at_output: Any) -> Tensor:
    """One layer of BERT with adapters, without dropout and padding."""
    h = layer.attention.output.dense(layer.attention.self(x)[0])
    if kind == "houlsby":
        h = h + at_attention(h)
    if kind == "parallel" and at_attention:
        h = h + at_attention(x)
    a = layer.attention.output.LayerNorm(h + x)
    f = layer.output.dense(layer.intermediate(a))
    if kind == "houlsby":
        f = f + at_output(f)
    if kind == "parallel":
        f = f + at_output(a)
    y = layer.output.LayerNorm(f + a)
    return layer.output.LayerNorm(at_output(y) + f + a) if kind == "pfeiffer" else y


def gpt2_layer(layer: Any, x: Tensor, kind: str, at_attention: Any, at_output: Any) -> Tensor:
    """One layer of GPT-2 with adapters, without dropout and padding."""
    n = layer.ln_1(x)
    h = layer.attn(n)[0]
    if kind == "houlsby":
        h = h + at_attention(h)
    if kind == "parallel" and at_attention:
        h = h + at_attention(n)
    x = x + h
    n = layer.ln_2(x)
    f = layer.mlp(n)
    if kind == "houlsby":
        f = f + at_output(f)
    if kind == "parallel":
        f = f + at_output(n)
    x = x + f
    return x + at_output(x) if kind == "pfeiffer" else x


def transcribed(name: str, plain: Any, inputs: dict[str, Tensor], kind: str, state: dict[str, Tensor]) -> Tensor:
    trunk = plain.trunk
    activation, scaling = (nn.functional.gelu if kind == "houlsby" else torch.relu), (4.0 if kind == "parallel" else 1)
    if name == "bert":
        x = trunk.embeddings(inputs["input_ids"])
    else:
        x = trunk.wte(inputs["input_ids"]) + trunk.wpe(torch.arange(inputs["input_ids"].shape[1]))
    for number, layer in enumerate(plain.layers):
        places = [f"layers.{number}.{where}" for where in ("attention", "output")]
        at_attention, at_output = (
            adapter_of(state, place, activation, scaling) if f"{place}.up.bias" in state else None for place in places
        )
        x = (bert_layer if name == "bert" else gpt2_layer)(layer, x, kind, at_attention, at_output)
    return x if name == "bert" else trunk.ln_f(x)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("options", [*({"kind": kind} for kind in KINDS), {"kind": "parallel", "mh_adapter": True}])
def test_equals_a_transcription_of_the_papers_forward(name: str, options: Any, models: Any, toys: Any) -> None:
    backbone, plain = opened(models, name), opened(models, name)
    strategy = applied(backbone, bottleneck_size=5, **options)
    randomise(backbone)
    backbone.trunk.eval().double()
    plain.trunk.eval().double()
    rows = toys.rows(1) * 2
    inputs = dict(backbone.tokenizer([row["text"] for row in rows], return_tensors="pt"))
    with torch.no_grad():
        state = strategy.weights(backbone, "t")
        expected = transcribed(name, plain, inputs, options["kind"], state)
        found = hidden_states(strategy, backbone, rows)
        assert float((found - bare_states(plain, rows)).abs().max()) > 0.1
    assert float((found - expected).abs().max()) <= 1e-12


# --- what is in the trunk


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_computes_the_same_at_first_then_only_the_adapters_move(
    name: str, kind: str, models: Any, toys: Any
) -> None:
    backbone, rows = opened(models, name), toys.rows(4)
    with torch.no_grad():
        plain = bare_states(backbone, rows)
    original = {n: tensor.clone() for n, tensor in backbone.trunk.state_dict().items()}
    strategy = applied(backbone, kind=kind, bottleneck_size=4)
    backbone.trunk.train()
    assert torch.equal(hidden_states(strategy, backbone, rows), plain)
    chosen = {n: p for n, p in backbone.trunk.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in chosen.items()}
    optimizer = AdamW(chosen.values(), lr=1e-2, weight_decay=0.0)
    for _ in range(2):  # the projection down has no gradient before the one up has moved
        hidden = hidden_states(strategy, backbone, rows)
        # Not the sum: behind a layer norm it is a constant.
        (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(not torch.equal(p, before[n]) for n, p in chosen.items())
    base = strategy.base_state(backbone)
    assert list(base) == list(original)
    assert all(torch.equal(tensor, original[n]) for n, tensor in base.items())


@pytest.mark.parametrize(("kind", "places"), [("houlsby", 2), ("pfeiffer", 1), ("parallel", 1)])
def test_as_many_parameters_train_as_a_count_by_hand(kind: str, places: int, models: Any) -> None:
    backbone = opened(models, "bert")
    applied(backbone, kind=kind, reduction_factor=8)
    adapter = (32 * 4 + 4) + (4 * 32 + 32)
    assert sum(p.numel() for p in backbone.trunk.parameters() if p.requires_grad) == 2 * places * adapter


def test_layers_that_are_left_out_have_no_adapters(models: Any) -> None:
    backbone = opened(models, "bert")
    applied(backbone, leave_out=(0,))
    assert [name for name, _ in places(backbone)] == ["layers.1.output"]


@pytest.mark.parametrize("left_out", [(2,), (0, 1)])
def test_layers_that_cannot_be_left_out_are_told(left_out: tuple[int, ...], models: Any) -> None:
    with pytest.raises(
        PluginError, match=r"^strategy 'bottleneck': leave_out is \[.*\]: expected some of the layers 0 to 1"
    ):
        applied(opened(models, "bert"), leave_out=left_out)


def test_what_a_kind_does_not_say_is_as_in_its_paper() -> None:
    houlsby, pfeiffer, parallel = (shared.Options.model_validate({"kind": kind}) for kind in KINDS)
    assert (houlsby.non_linearity, houlsby.places) == ("gelu", ("attention", "output"))
    assert (pfeiffer.non_linearity, pfeiffer.scaling, pfeiffer.reduction_factor) == ("relu", 1.0, 16)
    assert pfeiffer.places == parallel.places == ("output",)
    assert (parallel.scaling, parallel.reduction_factor) == (4.0, 2)
    assert shared.Options(kind="parallel", scaling=1.5).scaling == 1.5
    assert shared.Options.model_validate(parallel.model_dump()) == parallel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"non_linearity": "gelo"}, "transformers has no activation 'gelo'. Did you mean 'gelu'"),
        ({"mh_adapter": True}, "pfeiffer has no adapter at the attention"),
        ({"kind": "parallel", "output_adapter": False}, "expected mh_adapter or output_adapter"),
        ({"kind": "seq"}, "houlsby"),
        ({"bottleneck_size": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_make_no_adapter_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        shared.Options.model_validate(options)


def test_a_trunk_whose_layers_have_no_attention_is_refused_in_one_line() -> None:
    trunk = nn.Sequential(nn.Embedding(5, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    backbone: Any = SimpleNamespace(trunk=trunk, layers=[trunk[1]], forward=lambda inputs: trunk(inputs["input_ids"]))
    strategy = shared.build(shared.Options())
    with pytest.raises(PluginError, match=r"^strategy 'bottleneck': Sequential has not the form of a layer[^\n]*$"):
        strategy.apply(backbone, ("t",))


def test_a_block_that_does_not_end_with_hidden_states_is_refused() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attention(x)
            return x + self.mlp(x).sum(dim=-1, keepdim=True)

    trunk = nn.Sequential(nn.Embedding(5, 8), Block())
    backbone: Any = SimpleNamespace(trunk=trunk, layers=[trunk[1]], forward=lambda inputs: trunk(inputs["input_ids"]))
    with pytest.raises(ValueError, match=r"gives \[batch, seq, 8\], found \[1, 2, 3\]"):
        sublayers.find(backbone)


def test_looking_for_the_places_leaves_the_trunk_as_it_was(models: Any) -> None:
    backbone = opened(models, "bert")
    backbone.trunk.train()
    backbone.layers[0].eval()
    state, modes = torch.get_rng_state(), [module.training for module in backbone.trunk.modules()]
    sublayers.find(backbone)
    assert [module.training for module in backbone.trunk.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in backbone.trunk.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_under_bfloat16_autocast(kind: str, models: Any, toys: Any) -> None:
    backbone = opened(models, "llama")
    strategy = applied(backbone, kind=kind, bottleneck_size=4)
    randomise(backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_states(strategy, backbone, toys.rows(1)).pow(2).mean().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in backbone.trunk.parameters() if p.requires_grad]
    assert gradients and all(g is not None and bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


# --- what is saved


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_loads_into_a_fresh_trunk_with_the_same_outputs(
    kind: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone, rows = opened(models, "bert"), toys.rows(4)
    strategy = applied(backbone, kind=kind, reduction_factor=8)
    randomise(backbone)
    head = {"classifier.weight": torch.arange(6.0).reshape(2, 3)}
    strategy.save_adapter(backbone, "t", tmp_path / "t", "some/base", "AutoModelForX", head)
    again = opened(models, "bert")
    other = applied(again, kind=kind, reduction_factor=8)
    found = other.load_adapter(again, "t", tmp_path / "t", ["classifier.weight", "classifier.bias"])
    assert set(found) == {"classifier.weight"} and torch.equal(found["classifier.weight"], head["classifier.weight"])
    backbone.trunk.eval()
    again.trunk.eval()
    with torch.no_grad():
        assert torch.equal(hidden_states(other, again, rows), hidden_states(strategy, backbone, rows))


def test_a_saved_adapter_is_named_by_place_and_says_what_it_is(models: Any, tmp_path: Path) -> None:
    for name in ("distilbert", "llama"):
        backbone = opened(models, name)
        applied(backbone, kind="houlsby", bottleneck_size=3).save_adapter(
            backbone, "topic", tmp_path / name, "some/base", "", {}
        )
    files = [load_file(tmp_path / name / "adapter.safetensors") for name in ("distilbert", "llama")]
    parts = ("down.weight", "down.bias", "up.weight", "up.bias")
    expected = {f"layers.{n}.{place}.{part}" for n in (0, 1) for place in ("attention", "output") for part in parts}
    assert set(files[0]) == set(files[1]) == expected
    config = json.loads((tmp_path / "llama" / "adapter.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some/base"
    assert (config["type"], config["task"], config["kind"]) == ("bottleneck", "topic", "houlsby")
    assert (config["bottleneck_size"], config["non_linearity"], config["scaling"]) == (3, "gelu", 1.0)


def test_a_file_with_other_weights_is_refused(models: Any, tmp_path: Path) -> None:
    backbone = opened(models, "bert")
    strategy = applied(backbone)
    strategy.save_adapter(backbone, "t", tmp_path, "", "", {})
    state = load_file(tmp_path / "adapter.safetensors")
    state["layers.7.output.up.bias"] = state.pop("layers.1.output.up.bias")
    save_file(state, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"2 adapter weights are missing or not known: layers\.1\.output\.up\.bias"):
        strategy.load_adapter(backbone, "t", tmp_path, [])


def test_adapters_are_not_folded(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = applied(backbone)
    with pytest.raises(PluginError, match="cannot be folded"):
        strategy.fold(backbone)
