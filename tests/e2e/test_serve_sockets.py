"""A real `hft serve` on the loopback device: clients that misbehave do no harm to others, and it stops with grace."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import hft_core

pytest.importorskip("fastapi", reason="the extra serve")
pytest.importorskip("prometheus_client", reason="the extra serve")
pytest.importorskip("uvicorn", reason="the extra serve")

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def served(
    models: Any, toys: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """The process, its port, and what it says."""
    folder = tmp_path_factory.mktemp("served")
    recipe = {
        "backbone": {"model": str(models["bert"])},
        "tasks": {"topic": {"head": "classification"}},
        "stages": [{"strategy": "full", "max_steps": 2, "eval_strategy": "no"}],
        "precision": "fp32",
    }
    hft_core.run(recipe, data={"topic": {"train": toys.rows(30)}}, output=folder / "run")
    said = folder / "said"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    command = [sys.executable, "-m", "hft_core", "serve", str(folder / "run"), "--port", "0", "--timeout", "5"]
    with open(said, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", said.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        yield process, int(found[1]), said
    finally:
        process.kill()
        process.wait()


def ask(port: int, text: str = "the cat") -> tuple[int, float]:
    """The status of a prediction, and its seconds."""
    began = time.perf_counter()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/predict",
        json.dumps({"texts": [text]}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.status, time.perf_counter() - began


def connected(port: int, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=30)
    made.sendall(sent)
    return made


def head(length: int) -> bytes:
    return (
        f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


def answer(made: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := made.recv(65536):
            received += part
    return received


def test_clients_that_misbehave_do_no_harm_to_others(served: tuple[subprocess.Popen[str], int, Path]) -> None:
    process, port, said = served
    assert ask(port)[0] == 200
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(connected(port))
        slow = stack.enter_context(connected(port, head(100) + b"{"))
        for _ in range(20):  # killed in the middle of a request, and before its answer
            connected(port, head(100) + b"{").close()
            body = json.dumps({"texts": ["the dog"]}).encode()
            connected(port, head(len(body)) + body).close()
        big = stack.enter_context(connected(port, head(10_000_000)))
        assert b"413" in answer(big).split(b"\r\n")[0]
        chunked = head(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        endless = stack.enter_context(connected(port, chunked))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                endless.sendall(b"%x\r\n" % 100_000 + b"a" * 100_000 + b"\r\n")
        assert b"413" in answer(endless).split(b"\r\n")[0]
        headers = stack.enter_context(connected(port, b"GET / HTTP/1.1\r\nx: "))
        with contextlib.suppress(ConnectionError):
            headers.sendall(b"a" * 1_000_000)
        assert b"400" in answer(headers).split(b"\r\n")[0]
        assert [ask(port)[0] for _ in range(20)] == [200] * 20
        assert b"408" in answer(slow).split(b"\r\n")[0]
    assert ask(port)[0] == 200
    assert process.poll() is None
    assert "the dog" not in said.read_text()


def test_an_answer_does_not_wait_for_the_packet_before_it(served: tuple[subprocess.Popen[str], int, Path]) -> None:
    """Without TCP_NODELAY every answer on a connection that is kept takes 40 ms or more."""
    made = http.client.HTTPConnection("127.0.0.1", served[1])
    times = []
    for _ in range(60):
        began = time.perf_counter()
        made.request("POST", "/v1/predict", b"{}", {"content-type": "application/json"})
        assert made.getresponse().read().startswith(b'{"error"')
        times.append(time.perf_counter() - began)
    assert min(times) < 0.03


def test_a_request_that_was_accepted_is_answered_though_the_service_is_told_to_stop(
    served: tuple[subprocess.Popen[str], int, Path],
) -> None:
    process, port, said = served
    found: list[int] = []
    body = json.dumps({"texts": ["the dog"]}).encode()
    made = connected(port, head(len(body)))
    time.sleep(0.3)  # its headers have been read
    reader = threading.Thread(target=lambda: found.append(b" 200 " in answer(made).split(b"\r\n")[0]))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    made.sendall(body)
    reader.start()
    assert process.wait(30) == 0, said.read_text()
    reader.join(10)
    assert found == [True]
    assert "Traceback" not in said.read_text()
