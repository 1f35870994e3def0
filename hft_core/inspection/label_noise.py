"""Find labels that a classifier, which has not seen the row, confidently contradicts.

Confident learning (Northcutt et al. 2021, arXiv:1911.00068) on out-of-fold probabilities of logistic regression over
TF-IDF: cheap, and only as good as that model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

FOLDS = 5
EPOCHS = 10
FEATURES = 50_000


@dataclass(frozen=True)
class Suspect:
    """A row whose label is doubtful."""

    index: int
    label: str
    likelier: str
    probability: float
    """Of the likelier label, out of fold."""


def suspects(texts: Sequence[str], labels: Sequence[str], seed: int = 0) -> list[Suspect]:
    """Return the rows whose label is doubtful, the most doubtful first; classes of fewer than `FOLDS` rows are left
    out, and nothing is found where fewer than two remain."""
    counts = Counter(labels)
    kept = [i for i, label in enumerate(labels) if counts[label] >= FOLDS]
    names = sorted({labels[i] for i in kept})
    if len(names) < 2:
        return []
    ids = np.array([names.index(labels[i]) for i in kept])
    read = [texts[i] for i in kept]
    spaced = np.mean([" " in text.strip() for text in read]) > 0.5
    form = {"analyzer": "word", "ngram_range": (1, 2)} if spaced else {"analyzer": "char", "ngram_range": (1, 3)}
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, max_features=FEATURES, dtype=np.float32, **form),
        SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=EPOCHS, tol=None, random_state=seed),
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probabilities = cross_val_predict(model, read, ids, cv=folds, method="predict_proba")
    confidence = np.array([probabilities[ids == name, name].mean() for name in range(len(names))])
    above = np.where(probabilities >= confidence, probabilities, 0.0)
    likelier = above.argmax(axis=1)
    doubtful = np.flatnonzero((above.max(axis=1) > 0) & (likelier != ids))
    order = doubtful[np.argsort(probabilities[doubtful, ids[doubtful]] - above[doubtful, likelier[doubtful]])]
    return [Suspect(kept[i], labels[kept[i]], names[likelier[i]], float(above[i, likelier[i]])) for i in order.tolist()]
