"""Give each command an example, which its help ends with, and say what to type first."""

from __future__ import annotations

EXAMPLES = {
    "demo": "hft demo --out runs/demo",
    "init": "hft init news.csv --unlabeled articles.txt --out recipe.yaml",
    "run": "hft run recipe.yaml --set stages.0.strategy=lora --out runs/first",
    "resume": "hft resume runs/first",
    "compare": "hft compare recipe.yaml --vary stages.0.strategy=full,lora --seeds 5 --out studies/strategy",
    "sweep": "hft sweep recipe.yaml --search stages.0.learning_rate=log:1e-5:1e-3 --trials 20 --out sweeps/rate",
    "validate": "hft validate recipe.yaml",
    "check-data": "hft check-data news.csv --cleaned cleaned",
    "evaluate": "hft evaluate runs/first --by source",
    "predict": "hft predict runs/first --all --input new.csv --output answers.jsonl",
    "select": "hft select runs/first --task topic --input pool.jsonl --n 200 --by margin --output next.jsonl",
    "index": "hft index runs/replies --task pairs --input replies.csv --out replies.index",
    "search": 'hft search replies.index --query "How do I reset my password?" --k 5',
    "report": "hft report runs/first --out report.html",
    "analyze": "hft analyze runs/first --draws 32",
    "export": "hft export runs/first --to onnx --out exported",
    "merge": "hft merge runs/first runs/second --method ties --out runs/merged",
    "push": "hft push runs/first --repo me/news --dry-run",
    "check": "hft check runs/first",
    "list-plugins": "hft list-plugins --seam strategy",
    "describe": "hft describe strategy lora",
    "new-plugin": "hft new-plugin strategy my-strategy --out hft-my-strategy",
    "check-plugin": "hft check-plugin ./hft-my-strategy",
    "serve": "hft serve runs/first --port 8000",
    "ui": "hft ui runs",
    "cache": "hft cache size",
    "env": "hft env --json",
    "doctor": "hft doctor",
    "completion": "hft completion bash",
}
"""By command."""

FIRST = """\
hft: hybrid fine-tuning

  hft demo                             train on real news, offline, in minutes
  hft init FILE… --out recipe.yaml     write a recipe for your data
  hft run recipe.yaml --out RUN        train it

hft --help lists all commands, hft COMMAND --help ends with an example."""
