"""What a backbone does is measured on its trunk, whatever the family is called."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForSequenceClassification,
    BertConfig,
    BertLMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.models.bert.modeling_bert import BertLayer

from hft_core.backbone import Backbone, Features
from hft_core.errors import ModelError
from hft_plugins.backbones import decoder, encoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, Seq2SeqOptions, backbone_of
from hft_plugins.heads import clm
from hft_plugins.strategies.peft import lora

BUILDERS: dict[str, Any] = {
    "hf-encoder": (encoder.build, EncoderOptions),
    "hf-decoder": (decoder.build, DecoderOptions),
    "hf-seq2seq": (seq2seq.build, Seq2SeqOptions),
}


def opened(folder: Path) -> Any:
    build, options = BUILDERS[backbone_of(str(folder))]
    return build(options(model=str(folder)))


def refusal_of_clm(backbone: Backbone) -> str:
    try:
        clm.build(clm.Options(), task="t").attach(backbone)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "settings"), [("llama", {"is_causal": False}), ("gemma3_text", {"use_bidirectional_attention": True})]
)
def test_a_decoder_that_sees_later_tokens_is_bidirectional(
    name: str, settings: dict[str, Any], family: Callable[..., Path]
) -> None:
    assert opened(family(name)).causal
    backbone = opened(family(name, **settings))
    assert (backbone.causal, backbone.generates) == (False, False)
    assert "the backbone is bidirectional" in refusal_of_clm(backbone)


@pytest.mark.parametrize("is_decoder", [True, False])
def test_a_bert_is_what_its_configuration_makes_it_and_remains_so_when_it_is_saved(
    is_decoder: bool, family: Callable[..., Path], tmp_path: Path
) -> None:
    backbone = opened(family("bert", BertLMHeadModel, is_decoder=is_decoder))
    assert backbone.causal == is_decoder
    assert bool(refusal_of_clm(backbone)) != is_decoder
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    again = opened(tmp_path / "trunk")
    assert (again.kind, again.causal) == (backbone.kind, is_decoder)


def test_a_recorded_backbone_outweighs_the_names_in_the_configuration(
    family: Callable[..., Path], changed: Callable[..., None], tmp_path: Path
) -> None:
    folder = family("xlnet")
    backbone = opened(folder)
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    changed(tmp_path / "trunk" / "config.json", architectures=["XLNetForMaskedLM"])
    assert opened(tmp_path / "trunk").kind == backbone.kind


@pytest.mark.parametrize("name", ["xlnet", "bloom", "mamba", "t5"])
def test_a_model_without_a_limit_cuts_texts_at_the_default_and_takes_longer_ones(
    name: str, family: Callable[..., Path], changed: Callable[..., None]
) -> None:
    folder = family(name)
    changed(folder / "tokenizer_config.json", model_max_length=None)
    changed(folder / "config.json", n_positions=None)
    backbone = opened(folder)
    assert backbone.default_length == 512
    assert backbone.max_length > 100_000
    ids = torch.full((1, 600), 7)
    assert backbone.forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).shape[1] == 600


def test_segments_that_the_trunk_has_no_embeddings_for_are_left_out(models: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models["bert"], tmp_path / "mixed"))
    config = BertConfig.from_pretrained(folder).to_dict()
    kept = {key: config[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    roberta = RobertaConfig(**kept, num_attention_heads=2, max_position_embeddings=66, type_vocab_size=1)
    RobertaForMaskedLM(roberta).save_pretrained(folder)
    assert opened(models["bert"]).behavior.takes_segments
    backbone = opened(folder)
    assert "token_type_ids" not in backbone.tokenizer("one", "two")
    backbone.save(tmp_path / "saved", backbone.trunk.state_dict())
    assert "token_type_ids" not in opened(tmp_path / "saved").tokenizer.model_input_names


def test_the_width_is_that_of_what_the_trunk_gives(family: Callable[..., Path]) -> None:
    assert opened(family("opt", word_embed_proj_dim=16)).hidden_size == 16


@pytest.mark.parametrize(("name", "said"), [("nystromformer", "compute"), ("reformer", "trained on")])
def test_a_trunk_for_texts_of_one_length_is_refused_in_one_line(
    name: str, said: str, family: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=rf"cannot be {said}|cannot {said} a text of 8 tokens") as error:
        opened(family(name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["xlnet", "bert", "albert", "fnet", "llama", "opt", "bart", "t5"])
def test_a_padded_row_has_the_logits_of_the_plain_class_for_it_alone(
    name: str, family: Callable[..., Path], tmp_path: Path
) -> None:
    backbone = opened(family(name))
    module = backbone.sequence_module("AutoModelForSequenceClassification", num_labels=3).eval()
    backbone.trunk.eval()
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    backbone.save_task(tmp_path / "task", tmp_path / "trunk", module, module.plain_state(), {"num_labels": 3})
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "task").eval()
    # "</s>" is T5's and BART's own end token: their class takes rows with equally many only.
    texts = ["the cat saw the dog", "the dog", "a </s> b"]
    inputs = dict(backbone.tokenizer(texts, padding=True, return_tensors="pt", padding_side="right"))
    with torch.no_grad():
        if name == "fnet":  # what is at padding is a part of every position
            rows = [dict(backbone.tokenizer(text, return_tensors="pt")) for text in texts]
            logits = torch.cat([module(features(backbone, row)) for row in rows])
        else:
            logits = module(features(backbone, inputs))
        alone = [plain(**backbone.tokenizer(text, return_tensors="pt")).logits for text in texts]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=0)


def features(backbone: Backbone, inputs: dict[str, torch.Tensor]) -> Features:
    return Features(backbone.forward(inputs), inputs["input_ids"], inputs["attention_mask"])


def test_big_bird_answers_the_same_whatever_was_asked_before(family: Callable[..., Path]) -> None:
    backbone = opened(family("big_bird"))
    backbone.trunk.eval()
    long, short = (torch.randint(5, 50, (1, width)) for width in (60, 4))
    with torch.no_grad():
        first, _, again = (
            backbone.forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}) for ids in (long, short, long)
        )
    torch.testing.assert_close(first, again)


@pytest.mark.parametrize("name", ["funnel", "bert", "xlm"])
def test_a_saved_trunk_has_its_own_embeddings_when_it_is_opened_again(
    name: str, family: Callable[..., Path], tmp_path: Path
) -> None:
    backbone = opened(family(name))
    backbone.save(tmp_path / "trunk", backbone.trunk.state_dict())
    again = opened(tmp_path / "trunk").trunk.state_dict()
    assert [n for n, tensor in backbone.trunk.state_dict().items() if not torch.equal(tensor, again[n])] == []


def test_a_trunk_whose_tokens_do_not_see_each_other_is_refused(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BertLayer, "forward", lambda layer, hidden, *_, **__: hidden)
    with pytest.raises(ModelError, match="computes each token for itself"):
        opened(models["bert"])


def test_measuring_draws_no_random_numbers(models: Any) -> None:
    torch.manual_seed(5)
    encoder.build(EncoderOptions(model=str(models["bert"])))
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_an_adapter_is_loaded_as_it_was_saved_whatever_the_modules_are_called(
    family: Callable[..., Path], tmp_path: Path
) -> None:
    if "laguna" not in CONFIG_MAPPING:
        pytest.skip("this version of transformers has no Laguna")
    folder = family("laguna")
    states = []
    for saved in (True, False):
        backbone, strategy = opened(folder), lora.build(lora.Options(r=4))
        strategy.apply(backbone, ("task",))
        if saved:
            with torch.no_grad():
                for parameter in strategy._model.parameters():
                    if parameter.requires_grad:
                        parameter.fill_(0.5)
            strategy.save_adapter(backbone, "task", tmp_path / "task", str(folder), "AutoModelForCausalLM", {})
        else:
            strategy.load_adapter(backbone, "task", tmp_path / "task", [])
        states.append({name: tensor for name, tensor in backbone.trunk.state_dict().items() if "lora" in name})
    assert states[0]
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []
