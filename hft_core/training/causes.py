"""Name the likeliest cause of a task that learns too little."""

from __future__ import annotations

from hft_core.results import TrainingFacts

FEW_STEPS = 100
FAR = 10.0
"""A learning rate this many times higher or lower than the usual one is suspected."""
RISEN = 1.5
"""A training loss above this share of that at the start has risen."""
LEARNED = 0.8
"""A training loss below this share of that at the start has fallen."""


def likeliest_cause(facts: TrainingFacts) -> str:
    """Return a clause that names the likeliest cause, and what to change."""
    loss = 1.0  # as a share of that at the start
    if facts.first_loss and facts.last_loss is not None:
        loss = facts.last_loss / facts.first_loss
    if loss > RISEN:
        return f"likeliest cause: the learning rate {facts.rate:g} is too high (usual here: {facts.usual_rate:g})"
    if facts.rate > FAR * facts.usual_rate:
        return f"likeliest cause: the learning rate {facts.rate:g} is far above the usual {facts.usual_rate:g}"
    if facts.rate < facts.usual_rate / FAR:
        return f"likeliest cause: the learning rate {facts.rate:g} is far below the usual {facts.usual_rate:g}"
    if facts.steps < FEW_STEPS:
        return f"likeliest cause: {facts.steps} steps are few; train longer"
    if loss < LEARNED:
        return (
            "likeliest cause: the training rows were learned, but are too few or unlike the others (shuffled labels, "
            "splits from other sources)"
        )
    if facts.only_label:
        return "likeliest cause: one label is much more frequent than the others; try class_weights: balanced"
    return "likeliest cause: the targets do not belong to their texts (shuffled labels, another column)"
