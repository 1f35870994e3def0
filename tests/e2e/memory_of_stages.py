"""Print what stages are predicted to take and what they take, in bytes above what the process held before them.

python memory_of_stages.py FOLDER KIND…: as `{kind: {"predicted": …, "measured": …}}`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import hft_core
from hft_core import hookimpl
from hft_core.device.peak_memory import held_memory
from hft_core.plugins.catalogue import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs.validate import inspect
from hft_core.runtime import allocator
from hft_core.testing.toy_tokenizers import byte_pairs, word_pieces

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
TEXT = "the quick brown fox jumps over the lazy dog "
STAGES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "encoder": ("bert", {}, {"strategy": "full"}, "fp32"),
    "encoder lora": ("bert", {}, {"strategy": "lora"}, "fp32"),
    "frozen": ("bert", {}, {"strategy": "frozen"}, "fp32"),
    "checkpointing": ("bert", {}, {"strategy": "full", "gradient_checkpointing": True}, "fp32"),
    "decoder": ("llama", {}, {"strategy": "full"}, "fp32"),
    "decoder lora": ("llama", {}, {"strategy": "lora"}, "fp32"),
    "bf16": ("llama", {"dtype": "bf16"}, {"strategy": "lora"}, "bf16"),
    "nf4": ("llama", {"quantization": "nf4"}, {"strategy": "lora"}, "fp32"),
}


def save_models(folder: Path) -> None:
    torch.manual_seed(0)
    letters = [f"{start}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for start in ("", "##")]
    words = word_pieces(letters, model_max_length=128)
    BertModel(BertConfig(vocab_size=8192, **SIZES)).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    pairs = byte_pairs(
        ["<s>", "</s>"], [], add_prefix_space=False, bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    LlamaForCausalLM(LlamaConfig(vocab_size=8192, **SIZES)).save_pretrained(folder / "llama")
    pairs.save_pretrained(folder / "llama")


class Watch:
    peak = 0

    @hookimpl
    def hft_stage_started(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    @hookimpl
    def hft_stage_finished(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        self.peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measure(folder: Path, kind: str) -> dict[str, float]:
    model, backbone, stage, precision = STAGES[kind]
    task = {"head": "classification"} if model == "bert" else {"head": "clm"}
    recipe = {
        "backbone": {"type": "hf-encoder" if model == "bert" else "hf-decoder", "model": str(folder / model)}
        | backbone,
        "tasks": {"kind": {**task, "max_length": 128}},
        "stages": [{**stage, "max_steps": 2, "per_device_train_batch_size": 16, "eval_strategy": "no"}],
        "precision": precision,
    }
    rows = [{"text": f"{number} {TEXT * 8}", "label": str(number % 2)} for number in range(32)]
    allocator.trim()
    held = held_memory(torch.device("cpu"))
    report = inspect(resolve(recipe_file.from_dict(recipe), Catalogue.discover()), host_data={"kind": {"train": rows}})
    watch = Watch()
    allocator.trim()
    hft_core.run(recipe, data={"kind": {"train": rows}}, observers=[watch])
    return {"predicted": report.stages[0].memory.total - held, "measured": watch.peak - held}


if __name__ == "__main__":
    save_models(Path(sys.argv[1]))
    kinds = [kind for kind in sys.argv[2:] if kind != "nf4" or importlib.util.find_spec("bitsandbytes")]
    measure(Path(sys.argv[1]), kinds[0])  # what is imported late is there afterwards
    print(json.dumps({kind: measure(Path(sys.argv[1]), kind) for kind in kinds}))
