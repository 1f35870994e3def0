"""Prompt learning: what the heads see, and which trunks and texts cannot have a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from hft_core.errors import PluginError
from hft_plugins.backbones import decoder, encoder
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, opens_decoder
from hft_plugins.strategies.peft import p_tuning, prefix, prompt
from hft_plugins.strategies.peft.injected import Injected

COUNT = 4
FORMS = {"prefix": prefix, "prompt": prompt, "p-tuning": p_tuning}
forms = pytest.mark.parametrize("form", sorted(FORMS))


def opened(models: Any, name: str, **options: Any) -> Any:
    path = str(models[name])
    if opens_decoder(path):
        return decoder.build(DecoderOptions(model=path, dropout=0.0))
    return encoder.build(EncoderOptions(model=path, dropout=0.0, **options))


def applied(form: str, backbone: Any, **options: Any) -> Injected:
    module = FORMS[form]
    strategy = module.build(module.Options(num_virtual_tokens=COUNT, **options))
    strategy.apply(backbone, ("t",))
    backbone.trunk.eval()
    return strategy


def encoded(backbone: Any, rows: list[dict[str, Any]], *, pairs: bool = False) -> dict[str, Tensor]:
    texts = [[row["text"], row["other"]] if pairs else row["text"] for row in rows]
    return dict(backbone.tokenizer(texts, padding=True, return_tensors="pt"))


def hidden_states(strategy: Injected, backbone: Any, inputs: dict[str, Tensor]) -> Tensor:
    return strategy.forward(backbone, inputs, [("t", slice(0, len(inputs["input_ids"])))])


@forms
@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "gpt2"])
def test_heads_see_the_real_positions_only(form: str, name: str, models: Any, toys: Any) -> None:
    backbone = opened(models, name)
    strategy = applied(form, backbone)
    inputs = encoded(backbone, toys.rows(3))
    with torch.no_grad():
        hidden = hidden_states(strategy, backbone, inputs)
        assert hidden.shape == (*inputs["input_ids"].shape, backbone.hidden_size)
        # Padding changes nothing: the longest row alone, and each row in a batch of its own length.
        for row in range(3):
            length = int(inputs["attention_mask"][row].sum())
            alone = {key: ids[row : row + 1, :length] for key, ids in inputs.items()}
            torch.testing.assert_close(
                hidden_states(strategy, backbone, alone)[0], hidden[row, :length], atol=1e-5, rtol=0
            )


@forms
def test_the_prompt_is_all_that_trains_and_no_part_of_the_trunk(form: str, models: Any) -> None:
    backbone = opened(models, "bert")
    before = dict(backbone.trunk.state_dict())
    strategy = applied(form, backbone)
    trained = [name for name, p in backbone.trunk.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("prompt_encoder.") for name in trained)
    assert strategy.base_state(backbone).keys() == before.keys()
    assert strategy.state() == {}


@forms
def test_the_kinds_of_a_pair_of_texts_reach_the_trunk_as_in_peft(
    form: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models, "bert")
    strategy = applied(form, backbone)
    inputs = encoded(backbone, toys.rows(4), pairs=True)
    assert int(inputs["token_type_ids"].max()) == 1
    plain = AutoModelForSequenceClassification.from_pretrained(models["bert"])
    head = {name: p for name, p in plain.named_parameters() if "pooler" in name or "classifier" in name}
    strategy.save_adapter(backbone, "t", tmp_path, str(models["bert"]), "AutoModelForSequenceClassification", head)
    model = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    seen: list[Tensor] = []
    plain.base_model.register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state))
    with torch.no_grad():
        model(**inputs)
        ours = hidden_states(strategy, backbone, inputs)
    virtual = seen[0].shape[1] - ours.shape[1]
    assert virtual == (0 if form == "prefix" else COUNT)
    torch.testing.assert_close(seen[0][:, virtual + 1 :], ours[:, 1:], atol=1e-6, rtol=0)
    # Where a classifier looks stands what stands there in PEFT's model.
    torch.testing.assert_close(seen[0][:, 0], ours[:, 0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["prefix", "prompt"])
def test_peft_puts_the_prompt_in_front_of_classes_that_it_has_no_name_for(
    form: str, models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models, "bert")
    strategy = applied(form, backbone)
    strategy.save_adapter(backbone, "t", tmp_path, str(models["bert"]), "AutoModelForMaskedLM", {})
    plain = AutoModelForMaskedLM.from_pretrained(models["bert"])
    model = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    inputs = encoded(backbone, toys.rows(4))
    inputs.pop("token_type_ids")
    with torch.no_grad():
        theirs = model(**inputs).logits[:, -inputs["input_ids"].shape[1] :]
        ours = backbone.language_model(hidden_states(strategy, backbone, inputs).flatten(0, 1)).view(theirs.shape)
    torch.testing.assert_close(theirs[:, 1:], ours[:, 1:], atol=1e-5, rtol=0)


@forms
def test_a_prompt_computes_under_autocast(form: str, models: Any, toys: Any) -> None:
    backbone = opened(models, "llama")
    strategy = applied(form, backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = hidden_states(strategy, backbone, encoded(backbone, toys.rows(2)))
    hidden.float().sum().backward()
    assert all(p.grad is not None for p in backbone.trunk.parameters() if p.requires_grad)


def test_a_text_that_leaves_no_positions_for_the_prompt_is_refused(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = applied("prompt", backbone)
    text = {"text": "the cat " * 40}
    inputs = {key: ids[:, :61] for key, ids in encoded(backbone, [text]).items()}
    with pytest.raises(PluginError, match=r"4 virtual tokens and a text of 61 tokens .* the 64 .* at most 60$"):
        hidden_states(strategy, backbone, inputs)
    fitting = {key: ids[:, :60] for key, ids in inputs.items()}
    assert hidden_states(strategy, backbone, fitting).shape[1] == 60


@pytest.mark.parametrize("name", ["distilbert", "modernbert", "splinter"])
def test_a_trunk_without_past_key_values_takes_virtual_tokens_but_no_prefix(name: str, models: Any) -> None:
    with pytest.raises(PluginError, match=r"strategy 'prefix': .* takes no past key values"):
        applied("prefix", opened(models, name))
    applied("prompt", opened(models, name))


def test_an_encoder_decoder_is_refused(models: Any) -> None:
    backbone = opened(models, "bert")
    backbone.encoder_decoder = True
    with pytest.raises(PluginError, match="strategy 'prompt': an encoder-decoder has no single text"):
        applied("prompt", backbone)


def test_a_prompt_begins_with_the_words_of_a_text(models: Any) -> None:
    backbone = opened(models, "bert")
    strategy = applied("prompt", backbone, prompt_tuning_init="TEXT", prompt_tuning_init_text="the cat saw dog")
    words = backbone.tokenizer("the cat saw dog")["input_ids"][:COUNT]
    (prompt,) = [p for p in backbone.trunk.parameters() if p.requires_grad]
    assert torch.equal(prompt, backbone.trunk.get_input_embeddings().weight[words])
    config: Any = strategy.config
    assert config.tokenizer_name_or_path == str(models["bert"])


def test_the_network_that_makes_a_prompt_is_not_kept(models: Any, toys: Any, tmp_path: Path) -> None:
    backbone, rows = opened(models, "llama"), toys.rows(3)
    network: dict[str, Any] = {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 2}
    strategy = applied("p-tuning", backbone, **network, encoder_dropout=0.5)
    with torch.no_grad():
        expected = hidden_states(strategy, backbone, encoded(backbone, rows))
        backbone.trunk.train()  # its dropout must not be in what is saved
        strategy.save_adapter(backbone, "t", tmp_path, str(models["llama"]), "", {})
        other = opened(models, "llama")
        again = applied("p-tuning", other, **network, encoder_dropout=0.5)
        for _ in range(2):  # as for two tasks
            again.load_adapter(other, "t", tmp_path, ())
        other.trunk.eval()
        torch.testing.assert_close(hidden_states(again, other, encoded(other, rows)), expected, atol=1e-6, rtol=0)
    assert sum(p.numel() for n, p in other.trunk.named_parameters() if "prompt" in n) == COUNT * other.hidden_size


def test_a_prompt_cannot_be_folded(models: Any) -> None:
    backbone = opened(models, "bert")
    with pytest.raises(PluginError, match="cannot be merged into the trunk, so that no stage can follow"):
        applied("prompt", backbone).fold(backbone)
