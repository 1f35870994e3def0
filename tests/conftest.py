"""What holds for every test (nothing is fetched, and a tokenizer's threads cannot hang a test), and the tiny real
models of `tests/models.py` as fixtures."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "PYTEST_XDIST_WORKER" in os.environ:  # a test runs on each processor: more threads would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
_caches = tempfile.TemporaryDirectory(prefix="hft-test-cache-")  # a person's own cache is neither read nor filled
os.environ["HFT_CACHE"] = _caches.name
os.environ.pop("HFT_BLOCK", None)
os.environ.pop("HFT_ALLOW", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hft")
    group.addoption("--whole", action="store_true", help="run all cases of tests that are sampled otherwise")
    group.addoption("--e2e-share", type=int, default=1, help="of the tests in tests/e2e, run a seeded N-th")
    group.addoption("--sample-seed", default=None, help="seed of the samples; default: the commit that is checked out")


@cache
def _sample_seed(config: pytest.Config) -> str:
    given = config.getoption("--sample-seed")
    if given is not None:
        return str(given)
    command = ["git", "-C", str(config.rootpath), "rev-parse", "HEAD"]
    try:
        head = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "0"
    return head.stdout.strip()[:12] or "0"


def pytest_report_header(config: pytest.Config) -> str:
    return "samples: all cases" if config.getoption("--whole") else f"samples: --sample-seed={_sample_seed(config)}"


@pytest.hookimpl(trylast=True)  # after -k and -m: the sample is of what they leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a seeded sample of the cases of each test marked `sampled(COUNT)`, unless `--whole` asks for all. With
    xdist, files with the most slow tests come first: no process begins one when the others have nothing left to do."""
    if not config.getoption("--whole"):
        _keep_share(config, items)
        _keep_sample(config, items)
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        count = Counter(item.path for item in items)
        items.sort(key=lambda item: (-slow[item.path], -count[item.path], item.path))


def _keep_share(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a seeded N-th of the tests in tests/e2e, with all their cases (`--e2e-share N`)."""
    share, folder = config.getoption("--e2e-share"), Path(__file__).parent / "e2e"
    if share == 1:
        return

    def kept(item: pytest.Item) -> bool:
        test = f"{_sample_seed(config)} {item.nodeid.partition('[')[0]}"
        return folder not in item.path.parents or random.Random(test).randrange(share) == 0

    left_out = [item for item in items if not kept(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if kept(item)]


def _keep_sample(config: pytest.Config, items: list[pytest.Item]) -> None:
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out: set[pytest.Item] = set()
    for test, group in cases.items():
        marker = group[0].get_closest_marker("sampled")
        assert marker is not None
        count = min(marker.args[0], len(group))
        kept = random.Random(f"{_sample_seed(config)} {test}").sample(group, count)
        left_out.update(set(group) - set(kept))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The models are so small that more threads only get into each other's way."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """The module `tests/models.py`: the tests are no package that it could be imported from."""
    spec = importlib.util.spec_from_file_location("hft_test_models", Path(__file__).with_name("models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def models(toys: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> object:
    """Model folders by name."""
    return toys.Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def slurm_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a mock Slurm cluster (`tests/slurm_commands.py`), whose commands are first in the path."""
    from hft_plugins.launchers import slurm

    path = Path(__file__).with_name("slurm_commands.py")
    spec = importlib.util.spec_from_file_location("slurm_commands", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "cluster"
    monkeypatch.setenv("PATH", f"{module.install(folder)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.05)
    return folder
