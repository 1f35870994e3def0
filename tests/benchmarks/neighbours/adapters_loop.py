"""Rows a second of `adapters`' AdapterTrainer on the rows of a JSON file; runs in an environment with that library.

python adapters_loop.py ROWS.json MODEL STRATEGY STEPS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adapters import AdapterTrainer, AutoAdapterModel, LoRAConfig
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

SKIP, BATCH = 3, 32


class Clock(TrainerCallback):
    began = ended = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.ended = time.perf_counter()
        if state.global_step == SKIP:
            self.began = self.ended


def main(rows_file: str, folder: str, strategy: str, steps: int) -> None:
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    names = sorted({row["topic"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)
    data = Dataset.from_dict({**ids, "labels": [names.index(row["topic"]) for row in rows]})
    model = AutoAdapterModel.from_pretrained(folder)
    model.add_classification_head("topic", num_labels=len(names))
    if strategy == "lora":
        model.add_adapter("topic", config=LoRAConfig(r=8, alpha=16))
        model.train_adapter("topic")
    elif strategy == "frozen":
        model.freeze_model()
    clock = Clock()
    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArguments(
            output,
            max_steps=steps + SKIP,
            per_device_train_batch_size=BATCH,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,  # the labels, which it would not find in the signature
        )
        kind = AdapterTrainer if strategy == "lora" else Trainer
        kind(
            model,
            settings,
            train_dataset=data,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[clock],
        ).train()
    print(json.dumps({"rows_per_s": steps * BATCH / (clock.ended - clock.began)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
