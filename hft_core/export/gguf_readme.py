"""Write the README of exported GGUF files: commands of llama.cpp, and lines for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from hft_core.head import Writing

LINES = """\
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = Path(".")  # the folder of this README
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="{file}")
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file="{file}", dtype=torch.float32).eval()
{asked}
with torch.inference_mode():
    written = model.generate(**inputs, max_new_tokens=16, do_sample=False)
answer = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)"""
TEXT = 'inputs = tokenizer({text}, return_tensors="pt")'
CHAT = """\
messages = [{"role": "user", "content": "A first text."}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)"""


def text(files: Mapping[str, str], outtype: str, writing: Mapping[str, Writing | None]) -> str:
    """Return the README for the files of tasks; `writing`: how each task has a text written."""
    about = (
        f"A file for each task, with matrices in {outtype} and the tokenizer inside; `verdict.json` compares its "
        "answers with those of the run. transformers knows fewer names in `tokenizer.ggml.pre` than llama.cpp: it "
        "splits the numbers of a `smollm` otherwise than the run did."
    )
    parts = ["# Exported GGUF files\n", f"{about}\n"]
    for task, file in files.items():
        how = writing[task] or Writing({})
        prompt = json.dumps(f"{how.before}A first text.{how.after}")  # llama.cpp reads \\n as a line's end, too
        talk = f"llama-cli -m {file}" if how.chat else f"llama-completion -m {file} -p {prompt}"
        code = LINES.format(file=file, asked=CHAT if how.chat else TEXT.format(text=prompt))
        parts.append(f"## `{task}`\n\n```sh\n{talk}\n```\n\n```python\n{code}\n```\n")
    return "\n".join(parts)
