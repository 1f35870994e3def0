"""Train one stage: the loop, its optimizer, evaluation and checkpoints."""
