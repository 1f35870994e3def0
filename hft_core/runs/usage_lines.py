"""Write the lines of a run's README that open each task with transformers and PEFT, and predict with it.

The lines take the folder of the README from one variable and nothing else from this machine, so that they work where
the run was moved to; a base model of an adapter is the exception, unless it is on the hub or inside the run. They give
what `hft predict` gives: the same class names, padding, number format and limit of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hft_core.head import Head, Writing
from hft_core.recipe.schema import TRUNK_FOLDER

LOADED_WITH = ("id2label", "label2id", "problem_type")
"""Settings of a head that an adapter's base model is opened with: the base has those of its own task."""

_LOGITS = ["with torch.inference_mode():", "    logits = model(**inputs).logits"]
_POOLED = {
    "cls": "hidden[:, 0]",
    "mean": "(hidden * mask).sum(dim=1) / mask.sum(dim=1)",
    "max": "hidden.masked_fill(mask == 0, -torch.inf).amax(dim=1)",
    "last": "hidden[torch.arange(len(hidden)), mask.sum(dim=1).squeeze(dim=-1) - 1]",
}
POOLED_CLASS = "AutoModel"
"""The class that opens the trunk of a head that is a linear layer on a pooled text."""


@dataclass(frozen=True)
class Usage:
    """What the lines of one task depend on."""

    task: str
    head: Head
    max_length: int
    """Tokens of a text that the task was trained with."""
    adapter_base: str
    """The model that the task's adapter belongs on; empty where the folder holds a whole model."""
    room: int = 0
    """Tokens of the longest text that the model writes, the text that it continues included; 0: it writes none."""
    revision: str = ""
    """Of a base model on the hub."""
    quantization: str = ""
    """The format of the base model's weights in training and in `hft predict`, where it is not float32."""
    place: str = "model/"
    """Where the tasks' folders are, from that of the README."""


def lines(usage: Usage) -> list[str]:
    """Return Python that opens a task's folder and predicts. The head has a module of a plain class, or is a linear
    layer on a pooled text."""
    family = usage.head.family
    plain_class = POOLED_CLASS if family is None else family.plain_class
    pooled = usage.head.pooled_output() if family is None else None
    weighted = pooled is not None and pooled.weight is not None
    return [
        "from pathlib import Path",
        "",
        *(["import peft"] if usage.adapter_base else []),
        "import torch",
        "import transformers",
        *(["from safetensors.torch import load_file"] if weighted else []),
        "",
        'run = Path(".")  # the folder of this README',
        f'tokenizer = transformers.AutoTokenizer.from_pretrained(run / "{usage.place}{usage.task}")',
        *_opened(usage, plain_class),
        *_predicting(usage, plain_class),
    ]


def _opened(usage: Usage, plain_class: str) -> list[str]:
    """Open the model. Weights are asked for in float32, in which they were trained; transformers would take the
    checkpoint's own format."""
    opening, folder = f"transformers.{plain_class}.from_pretrained", f'run / "{usage.place}{usage.task}"'
    if not usage.adapter_base:
        return [f"model = {opening}({folder}, dtype=torch.float32).eval()"]
    config = usage.head.config()
    settings = [f"{name}={config[name]!r}" for name in LOADED_WITH if name in config and plain_class != POOLED_CLASS]
    base, note = _base(usage)
    if usage.quantization:
        note = [*note, f"# Trained, and predicted by hft, on base weights in {usage.quantization}; here in float32."]
    arguments = [
        base,
        "dtype=torch.float32",
        *([f"revision={usage.revision!r}"] if usage.revision else []),
        *settings,
        "pad_token_id=tokenizer.pad_token_id",
        "ignore_mismatched_sizes=True",
    ]
    return [
        *note,
        f"base = {opening}(",
        *(f"    {argument}," for argument in arguments),
        ")",
        f"model = peft.PeftModel.from_pretrained(base, {folder}).eval()",
    ]


def _base(usage: Usage) -> tuple[str, list[str]]:
    """Return what opens the base model, and lines before it. A folder outside of the run is named by the adapter
    alone: a path of this machine does not belong into a card."""
    path = Path(usage.adapter_base)
    if path.name == TRUNK_FOLDER and path.parent.name == "model":
        return f'run / "model/{TRUNK_FOLDER}"', []
    if not path.exists():
        return repr(usage.adapter_base), []
    return "config.base_model_name_or_path", [
        f"# The base model is a folder outside of this run ({_comment(path.name)}): where it was moved, name it below.",
        f'config = peft.PeftConfig.from_pretrained(run / "{usage.place}{usage.task}")',
    ]


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _predicting(usage: Usage, plain_class: str) -> list[str]:
    """Predict for texts, by the kind of the plain class."""
    kind = next((kind for end, kind in _KINDS.items() if plain_class.endswith(end)), None)
    if kind is None:
        return []
    if not usage.head.predicts_units:
        return kind(usage)
    limit = usage.max_length
    return [
        f"# Of a text of more than {limit} tokens, these lines read the beginning; `hft predict` reads it in windows.",
        *kind(usage),
    ]


def _inputs(usage: Usage, texts: str, **settings: Any) -> str:
    given = "".join(f", {name}={value!r}" for name, value in settings.items())
    return f'inputs = tokenizer({texts}{given}, truncation=True, max_length={usage.max_length}, return_tensors="pt")'


def _sequence(usage: Usage) -> list[str]:
    columns = [column for column in usage.head.columns() if column.kind == "text" and not column.target]
    texts = ['texts = ["A first text.", "A second and somewhat longer text."]']
    given = "texts"
    if len(columns) == 2:
        texts.append('others = ["What goes with the first.", "What goes with the second."]')
        given = "texts, others"
    return [*texts, _inputs(usage, given, padding=True), *_LOGITS, *_answers(usage.head)]


def _pooled(usage: Usage) -> list[str]:
    """Compute the head as well: in a folder of sentence-transformers, its weights, if any, are those of module 2."""
    output, names = usage.head.pooled_output(), usage.head.config().get("id2label", {})
    assert output is not None
    given = [line for line in _sequence(usage) if line not in _LOGITS]
    opened = next(i for i, line in enumerate(given) if line.startswith("inputs = ")) + 1
    answers = [line.replace("model.config.id2label", "id2label") for line in given[opened:]]
    weights = f'head = load_file(run / "{usage.place}{usage.task}/2_Dense/model.safetensors")'
    bias = "" if output.bias is None else ' + head["linear.bias"]'
    scored = "pooled" if output.weight is None else f'pooled @ head["linear.weight"].T{bias}'
    if output.normalize:
        scored = f"torch.nn.functional.normalize({scored}, dim=-1)"
    return [
        *given[:opened],
        *([] if output.weight is None else [weights]),
        *(["model.config.use_cache = False"] if output.pooling == "last" else []),  # of a decoder
        "with torch.inference_mode():",
        "    hidden = model(**inputs).last_hidden_state",
        '    mask = inputs["attention_mask"].unsqueeze(dim=-1)',
        f"    pooled = {_POOLED[output.pooling]}",
        f"    {'values' if output.normalize else 'logits'} = {scored}",
        *([f"id2label = {names!r}"] if any("id2label" in line for line in answers) else []),
        *(["values = values.tolist()"] if output.normalize else answers),
    ]


def _answers(head: Head) -> list[str]:
    """Return how logits become answers, by the problem that the head writes into its configuration."""
    kind = head.config().get("problem_type")
    decision = head.decision()
    if kind == "single_label_classification":
        scaled = "logits" if decision.temperature == 1.0 else f"(logits / {decision.temperature!r})"
        chosen = "probabilities.argmax(dim=-1)"
        if decision.thresholds:
            chosen = f"(probabilities[:, 1] >= {decision.thresholds[0]!r}).long()"
        return [
            f"probabilities = {scaled}.softmax(dim=-1)",
            f"labels = [model.config.id2label[i] for i in {chosen}.tolist()]",
        ]
    if kind == "multi_label_classification":
        alike, by_label = len(set(decision.thresholds)) < 2, list(decision.thresholds)
        least = next(iter(by_label), 0.5) if alike else "thresholds[i]"
        return [
            "probabilities = logits.sigmoid()",
            "names = model.config.id2label",
            *([] if alike else [f"thresholds = {by_label!r}"]),
            f"labels = [[names[i] for i, p in enumerate(row) if p >= {least}] for row in probabilities.tolist()]",
        ]
    return ["values = logits.squeeze(dim=-1).tolist()"]


def _tokens(usage: Usage) -> list[str]:
    return [
        'words = ["A", "text", "in", "words"]',
        _inputs(usage, '" ".join(words)', return_offsets_mapping=True),
        'offsets = inputs.pop("offset_mapping")[0].tolist()',
        'starts = [len(" ".join(["", *words[:i]])) for i in range(len(words))]',
        *_LOGITS,
        "ids, labels = logits.argmax(dim=-1)[0].tolist(), {}",
        "for place, (begin, end) in enumerate(offsets):",
        "    shared = [i for i, start in enumerate(starts) if max(begin, start) < min(end, start + len(words[i]))]",
        "    for word in shared[:1]:",
        "        labels.setdefault(word, model.config.id2label[ids[place]])  # of the word's first token",
    ]


def _span(usage: Usage) -> list[str]:
    return [
        'question, context = "What is asked?", "The text that holds the answer."',
        _inputs(usage, "question, context"),
        "with torch.inference_mode():",
        "    outputs = model(**inputs)",
        "start, end = outputs.start_logits.argmax().item(), outputs.end_logits.argmax().item()",
        'answer = tokenizer.decode(inputs["input_ids"][0, start : end + 1])  # `hft predict` keeps to the context',
    ]


def _choices(usage: Usage) -> list[str]:
    return [
        'question, choices = "What is asked?", ["one answer", "another answer"]',
        _inputs(usage, "[question] * len(choices), choices", padding=True),
        "with torch.inference_mode():",
        "    logits = model(**{name: tensor.unsqueeze(0) for name, tensor in inputs.items()}).logits",
        "probabilities = logits.softmax(dim=-1)",
        "labels = probabilities.argmax(dim=-1).tolist()",
    ]


def _masked(usage: Usage) -> list[str]:
    return [
        'texts = [f"a text with a {tokenizer.mask_token} in it"]',
        _inputs(usage, "texts", padding=True),
        *_LOGITS,
        'words = tokenizer.batch_decode(logits[inputs["input_ids"] == tokenizer.mask_token_id].argmax(dim=-1))',
    ]


def _continued(usage: Usage) -> list[str]:
    """Go on from a text, or answer a user's message."""
    writing = usage.head.writing()
    if writing is not None and writing.chat:
        begun = [
            'messages = [{"role": "user", "content": "What is asked?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
        ]
    else:
        text = _between('"the beginning of a text"', writing)
        begun = [f'inputs = tokenizer({text}, return_tensors="pt", return_token_type_ids=False)']
    return [
        *begun,
        *_generated(usage, 'inputs["input_ids"].shape[1]'),
        'text = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()',
    ]


def _written(usage: Usage) -> list[str]:
    """Write a text for another one."""
    text = _between('"a text to read"', usage.head.writing())
    return [
        _inputs(usage, f"[{text}]"),
        *_generated(usage, ""),
        "text = tokenizer.decode(output[0], skip_special_tokens=True).strip()",
    ]


def _between(text: str, writing: Writing | None) -> str:
    """Return code that puts what a head adds around a text."""
    parts = (repr(writing.before), text, repr(writing.after)) if writing is not None else (text,)
    return " + ".join(part for part in parts if part != "''")


def _generated(usage: Usage, begun: str) -> list[str]:
    """Generate as `hft predict` does, of a head that writes; `begun`: code for the tokens that count as written."""
    writing = usage.head.writing()
    settings = {"max_new_tokens": 40, "do_sample": False, "num_beams": 1, **(writing.settings if writing else {})}
    most = settings["max_new_tokens"]
    if begun:
        most = f"min({most}, {usage.room} - {begun})" if usage.room else most
    elif usage.room:
        most = min(most, usage.room)
    given = [f"{name}={value!r}" for name, value in settings.items() if name != "max_new_tokens"]
    return [
        "with torch.inference_mode():",
        "    output = model.generate(",
        f"        **inputs, max_new_tokens={most}, pad_token_id=tokenizer.pad_token_id,",
        f"        {', '.join(given)},",
        "    )",
    ]


_KINDS = {
    POOLED_CLASS: _pooled,
    "SequenceClassification": _sequence,
    "TokenClassification": _tokens,
    "QuestionAnswering": _span,
    "MultipleChoice": _choices,
    "MaskedLM": _masked,
    "CausalLM": _continued,
    "Seq2SeqLM": _written,
    "ConditionalGeneration": _written,
}


def base_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a base model's card says and holds for what is made of it: its license and languages."""
    return {
        name: metadata[name] for name in ("license", "license_name", "license_link", "language") if name in metadata
    }
