"""What `startup.py` compares with: torch, transformers, a model and its tokenizer, of the folder that is named."""

from __future__ import annotations

import os
import sys

import torch  # noqa: F401 (importing it is what is measured)
from transformers import AutoModel, AutoTokenizer

AutoModel.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
os._exit(0)
