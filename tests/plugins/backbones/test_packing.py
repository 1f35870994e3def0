from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BertConfig, BertModel, MambaConfig, MambaForCausalLM

import hft_core
from hft_core.errors import ModelError, PluginError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs.assembly import assemble
from hft_plugins.backbones import decoder, packing
from hft_plugins.backbones.options import DecoderOptions

LENGTHS = (3, 30, 1, 17, 9, 30, 2, 5)
FAMILIES = [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gpt2", "eager")]


@pytest.fixture(scope="module", autouse=True)
def _single_thread(one_thread: None) -> None:
    """See `one_thread`."""


def padded(vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    torch.manual_seed(0)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(vocabulary, mask.shape) * mask, "attention_mask": mask}


def both(model: Path, attention: str) -> tuple[Any, Any]:
    """The same decoder without and with packing."""
    common = {"model": str(model), "dropout": 0.0, "attn_implementation": attention}
    made = [decoder.build(DecoderOptions(**common, packing=packing)) for packing in (False, True)]
    return made[0], made[1]


def learned(backbone: Any, inputs: dict[str, Tensor], weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The hidden states of real tokens, and the gradients of a loss over them."""
    backbone.trunk.train()
    hidden = backbone.forward(inputs)
    real = hidden * inputs["attention_mask"].unsqueeze(-1)
    (real * weights).sum().backward()
    return real.detach(), [p.grad for p in backbone.trunk.parameters() if p.grad is not None]


@pytest.mark.parametrize(("family", "attention"), FAMILIES)
def test_equals_the_padded_pass(family: str, attention: str, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, packed = both(models[family], attention)
    seen: list[tuple[int, ...]] = []
    packed.trunk.register_forward_pre_hook(
        lambda trunk, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    inputs = padded(len(plain.tokenizer))
    weights = torch.randn(*inputs["input_ids"].shape, plain.hidden_size)
    hidden, gradients = learned(plain, inputs, weights)
    found, found_gradients = learned(packed, inputs, weights)
    assert seen == [(4, 30)]
    torch.testing.assert_close(found, hidden, rtol=1e-5, atol=1e-5)
    assert len(found_gradients) == len(gradients) > 0
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize(("family", "attention"), FAMILIES)
def test_equals_each_text_alone(family: str, attention: str, models: Any) -> None:
    _, packed = both(models[family], attention)
    packed.trunk.eval()
    inputs = padded(len(packed.tokenizer))
    with torch.no_grad():
        together = packed.forward(inputs)
        for row, length in enumerate(LENGTHS):
            alone = packed.trunk(inputs["input_ids"][row : row + 1, :length]).last_hidden_state[0]
            torch.testing.assert_close(together[row, :length], alone, rtol=1e-5, atol=1e-5)
            assert not together[row, length:].any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_every_token_has_one_place_and_finds_back(lengths: list[int]) -> None:
    inputs = padded(1000, tuple(lengths)) if any(lengths) else padded(1000, (1,))
    packed = packing.pack(inputs["input_ids"], inputs["attention_mask"])
    if packed is None:
        return
    rows, width = packed.inputs["input_ids"].shape
    assert width == max(lengths)
    assert rows * width < len(lengths) * width
    assert len(set(packed.place.tolist())) == len(packed.place) == sum(lengths)
    back = packed.unpacked(packed.inputs["input_ids"].unsqueeze(-1)).squeeze(-1)
    assert torch.equal(back, inputs["input_ids"])
    places = packed.unpacked(packed.inputs["position_ids"].unsqueeze(-1)).squeeze(-1)
    assert torch.equal(places, torch.arange(places.shape[1]) * inputs["attention_mask"])


def test_a_batch_of_like_lengths_goes_through_as_it_is() -> None:
    inputs = padded(1000, (10, 10, 9, 10))
    assert packing.pack(inputs["input_ids"], inputs["attention_mask"]) is None


def test_an_encoder_leaks_and_is_found_out() -> None:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    trunk: Any = BertModel(config, add_pooling_layer=False)
    assert not packing.isolates(trunk, lambda inputs: trunk(**inputs).last_hidden_state, 50)


def test_a_trunk_without_position_ids_is_found_out() -> None:
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            raise AssertionError("nothing is tried out")

    assert not packing.isolates(Plain(), lambda inputs: inputs["input_ids"], 50)


def test_a_state_space_model_is_refused(tmp_path: Path, toys: ModuleType, models: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'packing' needs a trunk whose position_ids keep the texts of a row apart"):
        decoder.build(DecoderOptions(model=str(tmp_path), packing=True))


def recipe(model: Path, strategy: Any, *, packing: bool) -> dict[str, Any]:
    return {
        "backbone": {"type": "hf-decoder", "model": str(model), "dropout": 0.0, "packing": packing},
        "tasks": {"topic": {"head": "classification"}, "language": {"head": "clm"}},
        "stages": [{"strategy": strategy, "max_steps": 4, "head_warmup_steps": 0, "learning_rate": 1e-3}],
        "precision": "fp32",
    }


@pytest.mark.parametrize("strategy", ["full", {"type": "lora", "r": 4}, "p-tuning"])
def test_a_run_with_packing_equals_one_without(strategy: Any, models: Any, toys: ModuleType) -> None:
    rows = {"train": toys.rows(60), "test": toys.rows(20, seed=1)}
    data = {"topic": rows, "language": rows}
    plain, packed = (
        hft_core.run(recipe(models["llama"], strategy, packing=packing), data=data).final["test"]
        for packing in (False, True)
    )
    for task, scores in plain.items():
        assert packed[task]["loss"] == pytest.approx(scores["loss"], rel=1e-4)


def test_a_strategy_that_tells_rows_by_their_task_is_refused(models: Any, toys: ModuleType) -> None:
    resolved = resolve(recipe_file.from_dict(recipe(models["llama"], "task-lora", packing=True)), Catalogue.discover())
    data = {"topic": toys.rows(40), "language": toys.rows(40)}
    with pytest.raises(PluginError, match="strategy 'task-lora' treats the rows of each task in its own way"):
        assemble(resolved, host_data=data, trust_remote_code=False)
