"""What holds for every test: nothing is fetched, and a failure of one tokenizer thread cannot hang a test."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("HFT_BLOCK", None)
