"""Write the README of an exported graph: lines that predict with onnxruntime and tokenizers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPENED = '''\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path(".")  # the folder of this README
facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(folder / facts["model"])
tokenizer = Tokenizer.from_file(str(folder / facts["tokenizer"]))
padding = facts["padding"]
tokenizer.enable_padding(pad_id=padding["id"], pad_token=padding["token"], direction=padding["side"])
fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


def run(task, texts):
    """Compute a task's outputs for texts, or for pairs of texts (tuples)."""
    tokenizer.enable_truncation(facts["tasks"][task]["max_length"])
    encoded = tokenizer.encode_batch(texts)
    inputs = {name: np.array([getattr(row, fields[name]) for row in encoded], np.int64) for name in facts["inputs"]}
    return encoded, session.run(list(facts["tasks"][task]["outputs"].values()), inputs)'''
WINDOWED = """

def run_windows(task, texts):
    \"\"\"Compute a task's output for texts: that of windows of each, pooled.\"\"\"
    found = facts["tasks"][task]
    window = found["window"]
    tokenizer.enable_truncation(found["max_length"], stride=window["stride"])
    parts = [[row, *row.overflowing][: window["most"]] for row in tokenizer.encode_batch(texts)]
    rows = [row for of_text in parts for row in of_text]
    inputs = {name: np.array([getattr(row, fields[name]) for row in rows], np.int64) for name in facts["inputs"]}
    (values,) = session.run(list(found["outputs"].values()), inputs)
    pool = {"mean": np.mean, "max": np.max, "first": lambda part, axis: part[0]}[window["pool"]]
    return np.stack([pool(part, axis=0) for part in np.split(values, np.cumsum([len(p) for p in parts])[:-1])])"""
"""For tasks that read windows; follows `OPENED`."""
CLASSES = [
    'scaled = logits / found["temperature"]',
    "exp = np.exp(scaled - scaled.max(axis=-1, keepdims=True))",
    "probabilities = exp / exp.sum(axis=-1, keepdims=True)",
]
LIKELIEST = 'labels = [found["labels"][i] for i in probabilities.argmax(axis=-1)]'
SECOND = 'labels = [found["labels"][int(p >= found["thresholds"][0])] for p in probabilities[:, 1]]'
SEVERAL = [
    "probabilities = 1 / (1 + np.exp(-logits))",
    'names = list(zip(found["labels"], found["thresholds"]))',
    "labels = [[name for p, (name, least) in zip(row, names) if p >= least] for row in probabilities]",
]
TAGS = [
    'words = ["A", "text", "in", "words"]',
    'encoded, (logits,) = run(task, [" ".join(words)])',
    'starts = [len(" ".join(["", *words[:i]])) for i in range(len(words))]',
    "labels = {}",
    "for place, (begin, end) in enumerate(encoded[0].offsets):",
    "    shared = [i for i, start in enumerate(starts) if max(begin, start) < min(end, start + len(words[i]))]",
    "    for word in shared[:1]:",
    '        labels.setdefault(word, found["labels"][logits[0, place].argmax()])  # of its first token',
]


def text(facts: Mapping[str, Any]) -> str:
    """Return the README for what `model.json` holds."""
    kind = "int8 weights (onnxruntime's dynamic quantization)" if facts["int8"] else "float32"
    about = (
        f"`model.onnx` is one graph in {kind} with the outputs of all tasks; asked for those of one task, onnxruntime "
        "computes no others. Inputs are `[batch, length]` in int64. `model.json` has outputs, labels and lengths by "
        "task, and `verdict.json` compares the answers with those of the run."
    )
    opened = OPENED + (WINDOWED if any(found["window"] for found in facts["tasks"].values()) else "")
    lines = ["# An exported model\n", f"{about}\n", f"```python\n{opened}\n```\n"]
    for task, found in facts["tasks"].items():
        lines.append(f"## `{task}`\n")
        code = _lines(task, found)
        if code:
            lines.append("```python\n" + "\n".join(code) + "\n```\n")
        else:
            lines.append(f"`run({task!r}, texts)` gives {_described(found)}; `hft predict` makes answers of them.\n")
    return "\n".join(lines)


def _lines(task: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the lines that give a task's answers; none for a head whose answers need more than its outputs."""
    begun = [f'task, found = {task!r}, facts["tasks"][{task!r}]']
    if facts["per"] == "token":
        return [*begun, *TAGS] if facts["labels"] else []
    given = {1: '["A first text.", "A second text."]', 2: '[("A first text.", "What goes with it.")]'}
    if facts["texts"] not in given:
        return []
    asked = [*begun, f"texts = {given[facts['texts']]}"]
    named = "logits" if facts["activation"] in ("softmax", "sigmoid") else "values"
    ran = f"{named} = run_windows(task, texts)" if facts["window"] else f"_, ({named},) = run(task, texts)"
    if facts["activation"] in ("softmax", "sigmoid"):
        classes = [*CLASSES, SECOND if facts["thresholds"] else LIKELIEST]
        answers = classes if facts["activation"] == "softmax" else SEVERAL
        return [*asked, ran, *answers]
    return [*asked, ran]


def _described(facts: Mapping[str, Any]) -> str:
    names = ", ".join(f"`{name}`" for name in facts["outputs"])
    return f"{names} of each {facts['per']}"
