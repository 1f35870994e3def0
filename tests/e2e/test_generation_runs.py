"""Runs of tasks that write texts: learned, saved, opened again and by plain libraries."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel

import hft_core
from hft_core import Catalogue
from hft_core.data import loading
from hft_core.data.examples import encode
from hft_core.device.machine import find_machine
from hft_core.predict import prediction, saved_run
from hft_core.training import evaluation

COPY = {"generate": True, "max_new_tokens": 6}


def rows(toys: ModuleType, count: int, seed: int) -> list[dict[str, Any]]:
    """What is to be written is the beginning of what is read; and a label, for a task beside."""
    made = []
    for row in toys.rows(count, seed=seed):
        start = " ".join(row["text"].split()[:2])
        pair = {"source": row["text"], "target": start, "prompt": row["text"], "response": start}
        made.append({**pair, "text": row["text"], "label": row["label"]})
    return made


def run(
    model: Path,
    tasks: dict[str, Any],
    toys: ModuleType,
    output: Path | None = None,
    strategies: tuple[str, ...] = ("full",),
    **stage: Any,
) -> Any:
    parts = {"train": rows(toys, 200, 0), "dev": rows(toys, 10, 1), "test": rows(toys, 10, 2)}
    common = {"per_device_train_batch_size": 16, "head_warmup_steps": 0, "eval_strategy": "no"}
    recipe = {
        "backbone": {"model": str(model), "dropout": 0.0},
        "tasks": tasks,
        "stages": [{**common, "learning_rate": 5e-3, **stage, "strategy": strategy} for strategy in strategies],
        "precision": "fp32",
    }
    return hft_core.run(recipe, data=dict.fromkeys(tasks, parts), output=output)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "model"), [("seq2seq", "bart"), ("instruction", "bart"), ("instruction", "llama")])
def test_a_copy_task_is_learned(head: str, model: str, models: Any, toys: ModuleType) -> None:
    final = run(models[model], {"copy": {"head": head, **COPY}}, toys, max_steps=200).final["test"]["copy"]
    assert final["loss"] < 0.1
    assert final["rougeL"] > 0.95
    assert final["chrf"] > 95


def plain_of(folder: Path, auto: Any, source: Path, *, adapter: bool, **labels: Any) -> Any:
    if not adapter:
        return auto.from_pretrained(folder).eval()
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(source)
    return PeftModel.from_pretrained(auto.from_pretrained(base, **labels), folder).eval()


@pytest.mark.parametrize("strategies", [("full",), ("lora",), ("full", "lora")])
@pytest.mark.parametrize("name", ["t5", "t5-untied", "bart", "llama"])
def test_a_run_is_opened_again_and_by_plain_libraries(
    name: str, strategies: tuple[str, ...], models: Any, toys: ModuleType, tmp_path: Path
) -> None:
    head = "instruction" if name == "llama" else "seq2seq"
    tasks = {"write": {"head": head, **COPY}, "topic": {"head": "classification"}}
    made = run(models[name], tasks, toys, tmp_path / "run", strategies, max_steps=2)
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    fresh = loading.from_python(rows(toys, 5, 3), task="write")
    machine, tokenizer = find_machine("fp32"), opened.model.backbone.tokenizer
    for task in tasks:
        examples = encode(loading.from_python(rows(toys, 10, 2), task=task), opened.model.head(task), tokenizer, 64)
        again = evaluation.score_task(opened.model, task, examples, machine, seed=0)
        assert again == pytest.approx(made.final["test"][task], abs=1e-5)
    said = [answer["text"] for answer in prediction.predict(opened, "write", fresh)]

    folder, adapter = tmp_path / "run/model/write", strategies[-1] == "lora"
    source = models[name] if len(strategies) == 1 else tmp_path / "run/model/trunk"
    auto = transformers.AutoModelForCausalLM if name == "llama" else transformers.AutoModelForSeq2SeqLM
    plain = plain_of(folder, auto, source, adapter=adapter)
    assert adapter or (folder / "generation_config.json").exists()
    theirs = []
    for row in rows(toys, 5, 3):
        text = row["source"] + ("\n" if name == "llama" else "")
        inputs = transformers.AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt")
        keep = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        written = plain.generate(**keep, max_new_tokens=6)[0]
        new = written[inputs["input_ids"].shape[1] :] if name == "llama" else written
        theirs.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    assert said == theirs

    classes = {"num_labels": 3}
    sequence = transformers.AutoModelForSequenceClassification
    topic = plain_of(tmp_path / "run/model/topic", sequence, source, adapter=adapter, **classes)
    answers = prediction.predict(opened, "topic", loading.from_python(rows(toys, 5, 3), task="topic"))
    topic.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        logits = topic(**tokenizer([row["text"] for row in rows(toys, 5, 3)], padding=True, return_tensors="pt")).logits
    wanted = logits.softmax(dim=1)
    assert [answer["label"] for answer in answers] == [
        opened.model.head("topic").facts["labels"][int(row.argmax())] for row in wanted
    ]


def test_a_run_on_conversations_answers_a_question(models: Any, toys: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "chat"
    for auto in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        auto.from_pretrained(models["llama"]).save_pretrained(folder)
    template = "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template + "{% if add_generation_prompt %}[a]{% endif %}")
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk_of(row)) + "\n" for row in toys.rows(40)))
    recipe = {
        "backbone": {"model": str(folder)},
        "tasks": {"chat": {"head": "instruction", "messages": "talk", "data": str(tmp_path / "talks.jsonl"), **COPY}},
        "stages": [{"strategy": "lora", "max_steps": 2, "per_device_train_batch_size": 8}],
        "precision": "fp32",
    }
    made = hft_core.run(recipe, output=tmp_path / "run")
    assert {"loss", "rougeL"} <= made.final["test"]["chat"].keys()
    opened = saved_run.open_run(tmp_path / "run", Catalogue.discover())
    answers = prediction.predict(opened, "chat", prediction.rows_from_texts(opened, "chat", ["the cat", "the whale"]))
    assert [list(answer) for answer in answers] == [["text"], ["text"]]
    assert opened.model.backbone.tokenizer.chat_template.startswith(template)


def talk_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"talk": [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]}
