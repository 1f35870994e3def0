"""`hft export --to gguf`: the file holds the run's model and tokenizer, and what it cannot hold is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast, Qwen2Config

import hft_core
from hft_core import cli
from hft_core.errors import UsageError
from hft_core.export import gguf_folder, gguf_metadata, gguf_tensors
from hft_core.export.gguf_tensors import interleaved
from hft_core.export.gguf_tokenizer import BYTES, CONTROL, SPLITS, UNKNOWN, UNUSED, NotInGguf, vocabulary
from hft_core.testing.toy_tokenizers import byte_pairs

pytest.importorskip("gguf")
pytest.importorskip("transformers", gguf_folder.OLDEST)
WORDS = ["Ġthe", "Ġbank", "12", "123", "Ġ2024", "they", "'re"]
TEXTS = ["the bank called in 2024: 123,456 12345", "  they're   here\n\nand there\t!", "Zürich 銀行 🙂 <s>the bank"]
ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def bytes_merged(split: str = "gpt-2", special: tuple[str, ...] = ("<s>", "</s>")) -> PreTrainedTokenizerFast:
    tokenizer = byte_pairs(special, WORDS, add_prefix_space=False, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    level = tokenizer.backend_tokenizer.pre_tokenizer
    if split == "smollm":
        level = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    elif split in SPLITS:
        parts = [
            pre_tokenizers.Split(Regex(SPLITS[split]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        level = pre_tokenizers.Sequence(parts)
    tokenizer.backend_tokenizer.pre_tokenizer = level
    return tokenizer


def sentence_pieces() -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's: pieces with their spaces, bytes for what is in none, and a first token."""
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("n", "k"), ("b", "a"), ("ba", "nk"), ("\u2581", "bank")]
    letters = dict.fromkeys(["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,:'"])
    names = ["<unk>", "<s>", "</s>", *sorted(BYTES), *letters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names_of = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names_of)


def config(tokenizer: PreTrainedTokenizerFast, kind: type[PretrainedConfig] = LlamaConfig, **more: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(vocab_size=len(tokenizer) + 3, num_key_value_heads=2, **(sizes | more))


@pytest.mark.parametrize(("split", "kind"), [("gpt-2", LlamaConfig), ("smollm", LlamaConfig), ("qwen2", Qwen2Config)])
def test_a_byte_level_tokenizer_is_read_from_the_file_as_it_was(
    split: str, kind: type[PretrainedConfig], tmp_path: Path
) -> None:
    tokenizer = bytes_merged(split)
    tokenizer.chat_template = "{{ messages[0].content }}"
    check_read(tokenizer, config(tokenizer, kind), tmp_path)
    found = vocabulary(tokenizer, len(tokenizer) + 3)
    assert (found.model, found.pre, found.add_bos) == ("gpt2", split, False)
    assert found.types[0] == CONTROL and found.types[-3:] == [UNUSED] * 3 and found.tokens[-1].startswith("[PAD")


def test_pieces_of_sentences_are_read_from_the_file_as_they_were(tmp_path: Path) -> None:
    tokenizer = sentence_pieces()
    check_read(tokenizer, config(tokenizer), tmp_path)
    found = vocabulary(tokenizer, len(tokenizer))
    assert (found.model, found.add_bos, found.add_eos, found.add_space_prefix) == ("llama", True, False, True)
    scores = dict(zip(found.tokens, found.scores, strict=True))
    assert scores["\u2581t"] > scores["he"] > scores["\u2581the"] > scores["\u2581bank"] > scores["z"]
    assert found.types[:3] == [UNKNOWN, CONTROL, CONTROL]


def test_whole_words_without_merges_are_those_of_llama_3(tmp_path: Path) -> None:
    for split in ("llama-bpe", "qwen2"):
        tokenizer = bytes_merged(split)
        plain = tokenizer("the bank")["input_ids"]
        facts = json.loads(tokenizer.backend_tokenizer.to_str())
        facts["model"] |= {"ignore_merges": True, "merges": facts["model"]["merges"][:1]}
        whole = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(facts)), eos_token="</s>")
        assert whole("the bank")["input_ids"] != plain or split
        if split == "llama-bpe":
            check_read(whole, config(whole), tmp_path)
        else:
            with pytest.raises(NotInGguf, match="whole words without merges"):
                gguf_folder.check_readable(config(whole, Qwen2Config), whole, "f16")


def check_read(tokenizer: PreTrainedTokenizerFast, model: PretrainedConfig, folder: Path) -> None:
    gguf_folder.check_readable(model, tokenizer, "f16")
    writer = gguf_folder.writer_of(folder / "x.gguf", "x", model, tokenizer, "f16")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    read = gguf_folder.tokenizer_in(folder / "x.gguf")
    for text in TEXTS:
        assert read(text)["input_ids"] == tokenizer(text)["input_ids"], text
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template"):
        assert getattr(read, name) == getattr(tokenizer, name), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rope_parameters": ROPE}, "its rope_parameters is {'rope_"),
        ({"hidden_act": "gelu"}, "its hidden_act is gelu, which transformers would read from the file as silu"),
        ({"attention_bias": True}, "its attention_bias is True"),
        ({"model_type": "gpt2"}, "it is of the type 'gpt2'"),
        ({"vocab_size": 9}, "beyond the 9 embeddings"),
    ],
)
def test_a_model_that_would_be_read_as_another_one_is_refused(more: dict[str, Any], message: str) -> None:
    model = config(bytes_merged())
    for name, value in more.items():
        setattr(model, name, value)
    with pytest.raises(NotInGguf, match=re.escape(message)):
        gguf_folder.check_readable(model, bytes_merged(), "f16")


def test_a_tokenizer_that_has_no_keys_is_refused() -> None:
    lower = bytes_merged()
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    other = bytes_merged()
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("x+"), behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    word = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"a": 0}, unk_token="a")))
    for tokenizer, message in (
        (lower, "normalizes texts (Lowercase)"),
        (other, "splits texts in another way than those known here (gpt-2, smollm, llama-bpe, qwen2)"),
        (word, "is of the type WordPiece; expected BPE"),
    ):
        with pytest.raises(NotInGguf, match=re.escape(message)):
            vocabulary(tokenizer, 1000)


def test_a_model_with_a_window_is_given_no_longer_context() -> None:
    window = config(bytes_merged(), max_position_embeddings=512)
    assert gguf_metadata.context_length(window) == 512
    window.sliding_window = 128
    assert gguf_metadata.context_length(window) == 128


def test_reordered_rows_rotated_in_pairs_attend_as_halves_do() -> None:
    """Of the two ways to rotate, each with its order of rows, the products of queries and keys are equal."""
    random = np.random.default_rng(0)
    heads, width, place = 2, 8, np.array([[3.0], [7.0]])
    queries, keys, hidden = (random.normal(size=shape) for shape in ((16, 16), (16, 16), (2, 16)))
    angles = place * (100.0 ** -(np.arange(width // 2) / (width // 2)))
    turn = np.exp(1j * angles)[:, None]

    def halves(weight: np.ndarray) -> np.ndarray:
        rows = (hidden @ weight.T).reshape(2, heads, width)
        return (rows[..., : width // 2] + 1j * rows[..., width // 2 :]) * turn

    def pairs(weight: np.ndarray) -> np.ndarray:
        rows = (hidden @ interleaved(weight, heads).T).reshape(2, heads, width)
        return (rows[..., ::2] + 1j * rows[..., 1::2]) * turn

    wanted = np.einsum("ihw,jhw->hij", halves(queries), halves(keys).conj()).real
    found = np.einsum("ihw,jhw->hij", pairs(queries), pairs(keys).conj()).real
    np.testing.assert_allclose(found, wanted)
    assert not np.allclose(interleaved(queries, heads), queries)


@pytest.fixture(scope="module")
def run(models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of a Llama with grouped queries and tied embeddings that writes, and classifies."""
    place = tmp_path_factory.mktemp("gguf")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toys.rows(120)))
    from transformers import LlamaForCausalLM

    tokenizer = byte_pairs(["<s>", "</s>"], [*WORDS, "Ġstriker"], add_prefix_space=False, eos_token="</s>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config(tokenizer, tie_word_embeddings=True, max_position_embeddings=128))
    model.save_pretrained(place / "model")
    tokenizer.save_pretrained(place / "model")
    task = {"data": str(place / "rows.jsonl")}
    recipe = {
        "backbone": {"model": str(place / "model")},
        "tasks": {"write": {"head": "clm", **task}, "topic": {"head": "classification", **task}},
        "stages": [
            {
                "strategy": {"type": "lora", "r": 4},
                "max_steps": 40,
                "learning_rate": 0.02,
                "head_warmup_steps": 0,
                "eval_strategy": "no",
            }
        ],
        "precision": "fp32",
    }
    hft_core.run(recipe, output=place / "run")
    return place / "run"


def verdict(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verdict.json").read_text())
    return found


@pytest.mark.slow
def test_a_file_answers_as_the_run_and_its_readme_writes_as_the_run(run: Path) -> None:
    out = run.parent / "f16"
    assert cli.main(["export", str(run), "--to", "gguf", "--tasks", "write", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "verdict.json", "write.gguf"]
    told = verdict(out)
    facts = told["tasks"]["write"]
    assert told["outtype"] == "f16" and facts["other_answers"] < 0.01
    assert facts["original"]["perplexity"] == pytest.approx(facts["exported"]["perplexity"], rel=1e-3)
    assert facts["original"] != facts["exported"], "halves are not floats"
    (code,) = re.findall(r"```python\n(.*?)^```$", (out / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    left: dict[str, Any] = {}
    text = "the striker saw the"
    code = code.replace('Path(".")', f"Path({str(out)!r})").replace("A first text.", text)
    exec(compile(code, "README.md", "exec"), left)  # noqa: S102 (they are what is tested)
    saved = hft_core.open_run(run, hft_core.Catalogue.discover())
    assert left["inputs"]["input_ids"][0].tolist() == saved.model.backbone.tokenizer(text)["input_ids"]
    mine = saved.model.backbone.generate(dict(left["inputs"]), max_new_tokens=16)
    wanted = saved.model.backbone.tokenizer.decode(mine[0], skip_special_tokens=True)
    assert left["answer"].strip() and left["answer"] in (wanted, wanted.removeprefix(text))


@pytest.mark.slow
def test_the_verdict_is_that_of_the_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounded weights are seen, those of the embeddings that are the LM head too, and so are rows in another order."""
    export = ["export", str(run), "--to", "gguf", "--tasks", "write"]
    assert cli.main([*export, "--outtype", "q8_0", "--tolerance", "1", "--out", str(run.parent / "q8")]) == 0
    rounded = verdict(run.parent / "q8")["tasks"]["write"]
    assert rounded["original"]["loss"] != pytest.approx(rounded["exported"]["loss"], rel=1e-6)
    size = {name: (run.parent / name / "write.gguf").stat().st_size for name in ("q8",)}
    monkeypatch.setattr(gguf_tensors, "interleaved", lambda rows, heads: rows)
    assert cli.main([*export, "--outtype", "f32", "--out", str(run.parent / "damaged")]) == 1
    assert "is beyond the tolerance of 0.01: task 'write': perplexity" in capsys.readouterr().err
    assert size["q8"] < (run.parent / "damaged" / "write.gguf").stat().st_size


def test_an_older_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_folder.transformers, "__version__", "5.3.0")
    saved: Any = None
    with pytest.raises(UsageError, match=re.escape("--to gguf needs transformers 5.23")):
        gguf_folder.GgufFolder("f16").check(saved, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gguf"], "task 'topic': --to gguf is for heads that learn with the LM head of a decoder (clm, instruction)"),
        (["gguf", "--int8"], "--int8 goes with --to onnx: here it is --outtype q8_0"),
        (["gguf", "--outtype", "q8"], "--outtype q8: unknown number format. Did you mean 'q8_0'?"),
        (["hf", "--outtype", "f16"], "--outtype goes with --to gguf"),
    ],
)
def test_what_cannot_be_written_is_refused(
    arguments: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(run), "--out", str(run.parent / "none"), "--to", *arguments]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and message in told[0]
    assert not (run.parent / "none").exists() and not list(run.parent.glob(".none*"))


@pytest.mark.slow
def test_a_family_that_cannot_be_written_is_refused_with_the_command_that_converts_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gguf_folder, "ARCHITECTURES", {"qwen2": "qwen2"})
    arguments = ["export", str(run), "--to", "gguf", "--tasks", "write", "--out", str(run.parent / "none")]
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert "LlamaModel cannot be written as GGUF here (which is for qwen2): it is of the type 'llama'." in told
    assert "convert_hf_to_gguf.py DIR/TASK --outfile TASK.gguf" in told
