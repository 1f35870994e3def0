"""Rows a second of sentence-transformers' trainer on four data sets; runs in an environment with that library.

python sentence_transformers_loop.py ROWS.json MODEL STRATEGY STEPS

Each label column is a data set with a loss of its own (triplets within the batch); the trainer takes them in turn.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from transformers import TrainerCallback

SKIP, BATCH = 3, 32


class Clock(TrainerCallback):
    began = ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.ended = time.perf_counter()
        if state.global_step == SKIP:
            self.began = self.ended


def main(rows_file: str, folder: str, strategy: str, steps: int) -> None:
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    columns = [column for column in rows[0] if column != "text"]
    data = {}
    for number, column in enumerate(columns):
        part = rows[number :: len(columns)]
        names = sorted({row[column] for row in part})
        data[column] = Dataset.from_dict(
            {"text": [row["text"] for row in part], "label": [names.index(row[column]) for row in part]}
        )
    trunk = models.Transformer(folder, max_seq_length=128)
    model = SentenceTransformer(modules=[trunk, models.Pooling(384)], device="cpu")
    if strategy == "lora":
        model.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        settings = SentenceTransformerTrainingArguments(
            output,
            max_steps=steps + SKIP,
            per_device_train_batch_size=BATCH,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        SentenceTransformerTrainer(
            model=model,
            args=settings,
            train_dataset=data,
            loss={column: losses.BatchAllTripletLoss(model) for column in columns},
            callbacks=[clock],
        ).train()
    print(json.dumps({"rows_per_s": steps * BATCH / (clock.ended - clock.began)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
