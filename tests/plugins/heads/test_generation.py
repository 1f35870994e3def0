"""Texts that backbones write, and their scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from hft_core.errors import PluginError
from hft_core.runs import assembly
from hft_plugins.backbones import decoder, encoder, seq2seq
from hft_plugins.backbones.options import DecoderOptions, EncoderOptions, Seq2SeqOptions
from hft_plugins.heads import instruction
from hft_plugins.heads.parts.text_metrics import text_scores, tokenizer_for

DECODERS, SEQ2SEQ = ["llama", "gpt2"], ["t5", "t5-untied", "bart"]


def opened(path: Path, name: str) -> Any:
    if name in DECODERS:
        backbone = decoder.build(DecoderOptions(model=str(path)))
    else:
        backbone = seq2seq.build(Seq2SeqOptions(model=str(path)))
    backbone.trunk.eval()
    assert backbone.language_model is not None
    backbone.language_model.eval()
    return backbone


def inputs_of(backbone: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    return dict(backbone.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))


def saved(backbone: Any, folder: Path) -> Any:
    """The plain model of what the backbone writes to disk."""
    head = backbone.language_model
    backbone.save(folder / "trunk", dict(backbone.trunk.state_dict()))
    backbone.save_task(folder / "task", folder / "trunk", head, head.plain_state(), {})
    auto = AutoModelForSeq2SeqLM if backbone.encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder / "task").eval()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", DECODERS + SEQ2SEQ)
def test_equals_generate_of_the_saved_plain_model(
    name: str, settings: dict[str, Any], models: Any, toys: Any, tmp_path: Path
) -> None:
    backbone = opened(models[name], name)
    plain = saved(backbone, tmp_path)
    texts = [row["text"] for row in toys.rows(4)]
    written = backbone.generate(inputs_of(backbone, texts), max_new_tokens=8, **settings)
    for text, ours in zip(texts, written, strict=True):
        alone = inputs_of(backbone, [text])
        tokens = plain.generate(
            **{key: alone[key] for key in ("input_ids", "attention_mask")}, max_new_tokens=8, **settings
        )[0]
        new = tokens[1:] if backbone.encoder_decoder else tokens[alone["input_ids"].shape[1] :]
        assert ours[: len(new)].tolist() == new.tolist()
        assert set(ours[len(new) :].tolist()) <= {backbone.tokenizer.pad_token_id}


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_writing_leaves_hidden_states_and_random_numbers_as_they_were(name: str, models: Any, toys: Any) -> None:
    backbone = opened(models[name], name)
    inputs = inputs_of(backbone, ["the cat saw the dog"])
    before = backbone.forward(inputs)
    state = torch.random.get_rng_state()
    one, two, other = (
        backbone.generate(inputs, max_new_tokens=12, do_sample=True, temperature=3.0, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(backbone.forward(inputs), before)


def test_sampling_that_the_checkpoint_asks_for_is_not_done_unasked(models: Any) -> None:
    backbone = opened(models["llama"], "llama")
    inputs = inputs_of(backbone, ["the cat saw the dog"])
    greedy = backbone.generate(inputs, max_new_tokens=12)
    config = GenerationConfig(do_sample=True, temperature=5.0, eos_token_id=1, bos_token_id=0)
    backbone.language_model.whole.generation_config = config
    assert torch.equal(backbone.generate(inputs, max_new_tokens=12), greedy)


@pytest.mark.parametrize(("name", "targets"), [("llama", ["q_proj", "v_proj"]), ("t5", ["q", "v"])])
def test_an_injected_adapter_takes_part(name: str, targets: list[str], models: Any) -> None:
    backbone = opened(models[name], name)
    inputs = inputs_of(backbone, ["the cat saw the dog"])
    plain = backbone.generate(inputs, max_new_tokens=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LoraModel(backbone.trunk, LoraConfig(target_modules=targets, init_lora_weights=False, lora_alpha=64), "default")
    backbone.trunk.eval()
    adapted = backbone.generate(inputs, max_new_tokens=8)
    assert not torch.equal(adapted, plain)
    for module in backbone.trunk.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)
    assert torch.equal(backbone.generate(inputs, max_new_tokens=8), plain)


def test_no_more_is_written_than_the_model_has_positions_for(models: Any) -> None:
    backbone = opened(models["gpt2"], "gpt2")
    inputs = inputs_of(backbone, ["the cat " * 29])
    room = 64 - inputs["input_ids"].shape[1]
    assert backbone.generate(inputs, max_new_tokens=100).shape[1] <= room


def test_a_backbone_that_does_not_write_is_refused(models: Any) -> None:
    backbone = encoder.build(EncoderOptions(model=str(models["bert"])))
    assert not backbone.generates
    with pytest.raises(NotImplementedError, match="does not generate"):
        backbone.generate({}, max_new_tokens=1)
    with pytest.raises(PluginError, match=r"^task 't': the backbone writes no texts[^\n]*$"):
        assembly.attach(backbone, {"t": instruction.build(instruction.Options(), task="t")})


def test_equals_the_scores_of_rouge_score_and_sacrebleu() -> None:
    said = ["the cat saw the dog again", "a whale", "near the old river the horse called the sparrow"]
    wanted = ["the cat saw a dog", "the whale surprised the bank", "the horse called the sparrow near the old river"]
    scores = text_scores(said, wanted, "13a")
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        each = [scorer.score(reference, text)[name].fmeasure for text, reference in zip(said, wanted, strict=True)]
        assert scores[name] == pytest.approx(sum(each) / 3)
    assert scores["bleu"] == pytest.approx(BLEU().corpus_score(said, [wanted]).score)
    assert scores["chrf"] == pytest.approx(CHRF().corpus_score(said, [wanted]).score)
    perfect = text_scores(wanted, wanted, "13a")
    assert perfect == pytest.approx({"rouge1": 1, "rouge2": 1, "rougeL": 1, "bleu": 100, "chrf": 100})


def test_chinese_is_counted_by_characters_when_asked() -> None:
    said, wanted = ["今天天气很好"], ["今天天气不好"]
    assert text_scores(said, wanted, "13a")["rouge1"] == 0
    scores = text_scores(said, wanted, "zh")
    assert scores["rouge1"] == pytest.approx(5 / 6)
    assert scores["bleu"] == pytest.approx(BLEU(tokenize="zh").corpus_score(said, [wanted]).score)


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [
        (["今天天气很好", "明天 rain"], "zh"),
        (["今日はいい天気です", "東京"], "char"),
        (["a word of 中文", "English", "more of it"], "13a"),
        (["오늘 날씨"], "13a"),
        ([], "13a"),
    ],
)
def test_the_tokenizer_follows_from_the_texts(texts: list[str], tokenizer: str) -> None:
    assert tokenizer_for(texts) == tokenizer


def test_chinese_is_counted_by_characters_unless_another_tokenizer_is_asked_for() -> None:
    said, wanted = ["今天天气很好"], ["今天天气不好"]
    scores = [
        instruction.build(instruction.Options(generate=True, **given), task="t").metrics(said, wanted, 0.0)["rougeL"]
        for given in ({}, {"tokenize": "13a"})
    ]
    assert scores == [pytest.approx(5 / 6), 0]


def test_missing_score_libraries_are_said_before_training(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rouge_score" else found(name))
    backbone = opened(models["llama"], "llama")
    assembly.attach(backbone, {"t": instruction.build(instruction.Options(), task="t")})
    head = instruction.build(instruction.Options(generate=True), task="t")
    with pytest.raises(PluginError, match=r"^task 't': .*pip install 'hft-core\[generation\]'[^\n]*$"):
        assembly.attach(backbone, {"t": head})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"temperature": 0.5}, "do_sample"),
        ({"top_k": 5}, "do_sample"),
        ({"length_penalty": 2.0}, "num_beams"),
        ({"max_new_tokens": 0}, "greater than 0"),
        ({"messages": "talk", "chat": True}, "leave it out"),
    ],
)
def test_settings_that_do_nothing_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        instruction.Options(**given)


def test_only_asked_for_does_a_head_write_and_score_dev_texts() -> None:
    quiet, writing = (instruction.build(instruction.Options(generate=g), task="t") for g in (False, True))
    assert (quiet.predicts_when_scored, quiet.main_metric, quiet.greater_is_better) == (False, "loss", False)
    assert (writing.predicts_when_scored, writing.main_metric, writing.greater_is_better) == (True, "rougeL", True)
    assert quiet.metrics([], [], 0.0) == {"loss": 0.0, "perplexity": 1.0}
    assert writing.metrics(["a dog"], ["a dog"], 0.0)["rougeL"] == 1.0
