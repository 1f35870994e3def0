"""The control without a neural network: TF-IDF of words and word pairs, and logistic regression, for text classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hft_core.data.cells import as_label
from hft_core.head import Head
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly
from hft_core.studies.evidence import ArmEvidence

if TYPE_CHECKING:
    from hft_core.data.rows import Rows
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.schema import Recipe

NAME = "tf-idf"


def evidence(recipe: Recipe, seeds: Sequence[int], catalogue: Catalogue, control: str) -> ArmEvidence | None:
    """Fit and score every task with one text label a row, for each seed; None without such a task."""
    arm = ArmEvidence(NAME, control=control)
    for seed in seeds:
        resolved = resolve(recipe.model_copy(update={"seed": seed}), catalogue)
        heads = {task: head for task, head in assembly.build_heads(resolved).items() if _reads_classes(head)}
        if not heads:
            return None
        arm.seeds.append(seed)
        for task, splits in assembly.load_rows(resolved, heads, {}).items():
            _score(arm, task, heads[task], splits)
    return arm


def _reads_classes(head: Head) -> bool:
    """Return whether the head predicts one of several classes from texts alone."""
    columns = head.columns()
    texts = [c for c in columns if not c.target]
    targets = [c for c in columns if c.target]
    one_label = len(targets) == 1 and targets[0].kind == "label" and targets[0].classes and not targets[0].many
    return one_label and all(c.kind == "text" and not c.many for c in texts)


def _score(arm: ArmEvidence, task: str, head: Head, splits: dict[str, Rows]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels: list[str] = head.facts["labels"]
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10.0, max_iter=2000)
    )
    texts, wanted = _texts(head, splits["train"]), _labels(head, splits["train"])
    model.fit(texts, wanted)
    places = [labels.index(label) for label in model.classes_]
    arm.main_metrics[task], arm.greater_is_better[task] = head.main_metric, head.greater_is_better
    for split in ("dev", "test"):
        if split not in splits:
            continue
        probabilities = np.zeros((len(splits[split]), len(labels)))
        probabilities[:, places] = model.predict_proba(_texts(head, splits[split]))
        references = [labels.index(label) for label in _labels(head, splits[split])]
        truth = probabilities[np.arange(len(references)), references]
        loss = float(-np.log(np.maximum(truth, 1e-12)).mean())
        for metric, value in head.metrics(probabilities.tolist(), references, loss).items():
            arm.scores.setdefault(split, {}).setdefault(task, {}).setdefault(metric, []).append(value)


def _texts(head: Head, rows: Rows) -> list[str]:
    columns = [rows[column.name] for column in head.columns() if not column.target]
    return ["\n".join(map(str, cells)) for cells in zip(*columns, strict=True)]


def _labels(head: Head, rows: Rows) -> list[str]:
    (column,) = (column.name for column in head.columns() if column.target)
    return [as_label(cell) for cell in rows[column]]
