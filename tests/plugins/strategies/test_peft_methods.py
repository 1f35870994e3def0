"""Every method of the installed PEFT: its name and fields, what it trains, how it is saved, and what is refused."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from pydantic import ValidationError
from torch import Tensor

from hft_core.errors import PluginError, RecipeError
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_plugins import backbones, combiners, heads, strategies
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, opens_decoder
from hft_plugins.strategies.peft import any_method, configuration, dora, ia3, ln, pissa
from hft_plugins.strategies.peft.any_method import Options, build
from hft_plugins.strategies.peft.injected import Injected
from hft_plugins.strategies.peft.short_form import ShortForm

BUILT_IN = Catalogue.of(backbones, heads, strategies, combiners)
METHODS = sorted(str(getattr(method, "value", method)) for method in PEFT_TYPE_TO_CONFIG_MAPPING)
SMALL: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 4, "target_r": 2},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 50},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2},
    "ROAD": {"group_size": 16},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [1, 5, 6]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 64},
    **{method: {"num_virtual_tokens": 4} for method in ("CARTRIDGE", "PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING")},
}
"""Fields without which a method does not go with a trunk this small, or with any."""
REFUSED = {
    "ADAPTION_PROMPT": "Unsupported model type for adaption prompt: 'bert'",
    "CPT": "only supports task_type = CAUSAL_LM",
    "MULTITASK_PROMPT_TUNING": "task_ids",
    "POLY": "task_ids",
    "SHADOW": "layers",
    "XLORA": "use_cache",
}
"""What PEFT says of those that it does not let train on an encoder's trunk alone."""


def opened(models: Any, name: str) -> Any:
    path = str(models[name])
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0))


def hidden_states(strategy: Injected, backbone: Any, rows: list[dict[str, Any]]) -> Tensor:
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return strategy.forward(backbone, dict(inputs), [("t", slice(0, len(rows)))])


def train(strategy: Injected, backbone: Any, rows: list[dict[str, Any]], steps: int = 3) -> None:
    parameters = [p for p in backbone.trunk.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    strategy.begin(backbone, steps)
    for step in range(steps):
        hidden = hidden_states(strategy, backbone, rows)
        # Not the mean: behind a layer norm it is a constant.
        loss = (hidden * torch.linspace(-1, 1, hidden.shape[-1])).pow(2).mean()
        penalty = strategy.penalty(backbone)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        strategy.step_finished(backbone, step)
        optimizer.zero_grad()


def made(method: str, fields: dict[str, Any]) -> Injected:
    return build(Options.model_validate({"method": method, **fields}))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_peft_trains_and_is_saved_exactly_or_says_in_one_line_why_not(
    method: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone, rows = opened(models, "bert"), toys.rows(4)
    before = {name: tensor.clone() for name, tensor in backbone.trunk.state_dict().items()}
    fields = SMALL.get(method, {})
    try:
        strategy = made(method, fields)
        strategy.apply(backbone, ("t",))
    except (PluginError, ValidationError) as error:
        refusal = str(error) if isinstance(error, PluginError) else error.errors()[0]["msg"]
        assert method in refusal
        assert "\n" not in refusal
        assert REFUSED.get(method, "") in refusal
        return
    assert method not in REFUSED
    train(strategy, backbone, rows)
    base = strategy.base_state(backbone)
    assert base.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.items())

    backbone.trunk.eval()
    with torch.no_grad():
        expected = hidden_states(strategy, backbone, rows)
    strategy.save_adapter(backbone, "t", tmp_path, str(models["bert"]), "", {})
    again, other = made(method, fields), opened(models, "bert")
    again.apply(other, ("t",))
    again.load_adapter(other, "t", tmp_path, ())
    other.trunk.eval()
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(again, other, rows), expected, atol=1e-6, rtol=0)

    if not Options.model_validate({"method": method, **fields}).merges:
        with pytest.raises(PluginError, match="so that no stage can follow"):
            strategy.fold(backbone)
        return
    strategy.fold(backbone)
    inputs = backbone.tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(backbone.forward(dict(inputs)), expected, atol=1e-5, rtol=0)
    assert list(backbone.trunk.state_dict()) == list(before)


@pytest.mark.parametrize(
    ("spelled", "own"),
    [
        ("LORA", "LORA"),
        ("lora", "LORA"),
        ("p-tuning", "P_TUNING"),
        ("P_Tuning", "P_TUNING"),
        ("ln", "LN_TUNING"),
        ("prefix", "PREFIX_TUNING"),
    ],
)
def test_a_method_is_known_in_any_spelling(spelled: str, own: str) -> None:
    assert configuration.resolve_method(spelled) == (own, {})


def test_dora_is_the_lora_that_uses_dora() -> None:
    assert made("DORA", {"r": 4}).config.use_dora  # type: ignore[attr-defined]
    assert made("LORA", {"use_dora": True}).config.use_dora  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"method": "LORRA"}, r"PEFT has no method 'LORRA'. Did you mean 'lora'\?"),
        ({"method": "LORA", "lora_alfa": 3}, r"method 'LORA' has no field 'lora_alfa'. Did you mean 'lora_alpha'\?"),
        ({"method": "LORA", "r": "many"}, r"method 'LORA', field 'r': Input should be a valid integer.*not 'many'"),
        ({"method": "LORA", "task_type": "SEQ_CLS"}, "'task_type' follows from the recipe"),
        ({"method": "ADALORA", "total_step": 3}, "'total_step' follows from the recipe"),
        ({"method": "PROMPT_TUNING"}, "method 'PROMPT_TUNING' needs the field 'num_virtual_tokens'"),
        (
            {"method": "IA3", "target_modules": ["a"], "feedforward_modules": ["b"]},
            "refuses method 'IA3': .*subset",
        ),
        ({"method": "ADAMSS", "use_asa": True}, "use_asa"),
        ({"method": "PISSA", "use_dora": True}, "use_dora and init_lora_weights 'pissa'"),
        ({}, "needs the option 'method'"),
    ],
)
def test_what_peft_does_not_know_is_refused_when_the_recipe_is_read(strategy: dict[str, Any], message: str) -> None:
    recipe = {
        "backbone": {"type": "hf-encoder", "model": "m"},
        "tasks": {"t": {"head": "classification"}},
        "stages": [{"strategy": {"type": "peft", **strategy}}],
    }
    with pytest.raises(PluginError, match=message) as caught:
        resolve(recipe_file.from_dict(recipe), BUILT_IN)
    assert "\n" not in str(caught.value)
    assert "strategy 'peft'" in str(caught.value)


def test_a_recipe_keeps_the_fields_of_the_method() -> None:
    recipe = {
        "backbone": {"type": "hf-encoder", "model": "m"},
        "tasks": {"t": {"head": "classification"}},
        "stages": [{"strategy": {"type": "peft", "method": "lokr", "r": 4, "target_modules": ["query"]}}],
    }
    pinned = resolve(recipe_file.from_dict(recipe), BUILT_IN).recipe.stages[0].strategy
    assert pinned is not None
    assert pinned.options == {"method": "lokr", "r": 4, "target_modules": ["query"]}


@pytest.mark.parametrize(("method", "merges"), [("lora", True), ("lily", False), ("adaption-prompt", False)])
def test_no_stage_can_follow_a_method_that_cannot_be_merged(method: str, merges: bool) -> None:
    recipe = {
        "backbone": {"type": "hf-encoder", "model": "m"},
        "tasks": {"t": {"head": "classification"}},
        "stages": [{"name": "a", "strategy": {"type": "peft", "method": method}}, {"name": "b", "strategy": "lora"}],
    }
    with nullcontext() if merges else pytest.raises(RecipeError, match="so that stage 'b' cannot follow"):
        resolve(recipe_file.from_dict(recipe), BUILT_IN)


def test_a_method_that_peft_gains_can_be_used_as_it_is(models: Any, toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class TomorrowConfig(peft.LoraConfig):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.peft_type = "TOMORROW"

    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, "TOMORROW", TomorrowConfig)
    monkeypatch.setitem(PEFT_TYPE_TO_TUNER_MAPPING, "TOMORROW", peft.LoraModel)
    monkeypatch.setitem(PEFT_TYPE_TO_PREFIX_MAPPING, "TOMORROW", "lora_")
    backbone = opened(models, "bert")
    strategy = made("tomorrow", {"r": 2, "target_modules": "all-linear"})
    strategy.apply(backbone, ("t",))
    train(strategy, backbone, toys.rows(4), steps=1)
    assert sum(p.requires_grad for p in backbone.trunk.parameters()) == 24


def test_a_loss_that_peft_leaves_to_the_loop_is_added(models: Any) -> None:
    backbone = opened(models, "bert")
    kasa = made("LORA", {"r": 4, "target_modules": ["query"], "kasa_config": {}})
    before = {name: tensor.clone() for name, tensor in backbone.trunk.state_dict().items()}
    kasa.apply(backbone, ("t",))
    penalty = kasa.penalty(backbone)
    assert penalty is not None
    assert penalty.requires_grad
    assert float(penalty) > 0
    # It cuts small singular values off the trunk's weights; what is saved belongs on the trunk as it was.
    assert all(torch.equal(tensor, before[name]) for name, tensor in kasa.base_state(backbone).items())
    assert made("LORA", {"r": 4}).penalty(backbone) is None


def test_what_is_drawn_at_random_and_does_not_train_is_in_the_checkpoint(models: Any, toys: Any) -> None:
    rows = toys.rows(4)
    one, other = opened(models, "bert"), opened(models, "bert")
    first, second = made("SHIRA", {"r": 4}), made("SHIRA", {"r": 4})
    for seed, (strategy, backbone) in enumerate([(first, one), (second, other)]):
        torch.manual_seed(seed)
        strategy.apply(backbone, ("t",))
    train(first, one, rows)
    second.load_state(first.state())
    with torch.no_grad():
        for mine, theirs in zip(one.trunk.parameters(), other.trunk.parameters(), strict=True):
            theirs.copy_(mine)
        torch.testing.assert_close(hidden_states(first, one, rows), hidden_states(second, other, rows), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "splinter", "llama", "gpt2"])
@pytest.mark.parametrize(("module", "options"), [(ia3, {}), (ln, {}), (dora, {"r": 2}), (pissa, {"r": 2})])
def test_short_forms_have_defaults_for_any_trunk(
    module: ModuleType, options: dict[str, int], name: str, models: Any
) -> None:
    backbone = opened(models, name)
    strategy = module.build(module.Options(**options))
    strategy.apply(backbone, ("t",))
    trained = [n for n, p in backbone.trunk.named_parameters() if p.requires_grad]
    for part in range(len(backbone.layers)):
        assert any(f".{part}." in n for n in trained)


def test_ia3_rescales_what_narrows_by_its_input_where_peft_does_not_know_the_model(models: Any) -> None:
    backbone = opened(models, "distilbert")
    ia3.build(ia3.Options()).apply(backbone, ("t",))
    by_input = {n for n, m in backbone.trunk.named_modules() if getattr(m, "is_feedforward", False)}
    assert by_input == {"transformer.layer.0.ffn.lin2", "transformer.layer.1.ffn.lin2"}


def test_each_short_form_is_its_method_with_its_usual_fields() -> None:
    found = {}
    for entry in BUILT_IN.seam("strategy"):
        options = BUILT_IN.load_options(entry)
        if issubclass(options, ShortForm):
            assert options.name == entry.name
            built = BUILT_IN.load_factory(entry)(options())
            found[entry.name] = str(built.config.peft_type.value)
            assert built.name == entry.name
            alike = any_method.build(Options.model_validate({"method": options.method, **options().fields()}))
            assert type(built) is type(alike)
            assert built.learning_rate == alike.learning_rate
            assert entry.spec is not None
            assert configuration.merges(built.config) == entry.spec.merges  # type: ignore[attr-defined]
    assert found == {
        **dict.fromkeys(("lora", "dora", "rslora", "pissa", "olora"), "LORA"),
        **{name: name.upper() for name in ("adalora", "vera", "randlora", "fourierft", "miss", "oft", "boft", "ia3")},
        "ln": "LN_TUNING",
        "prefix": "PREFIX_TUNING",
        "prompt": "PROMPT_TUNING",
        "p-tuning": "P_TUNING",
    }
