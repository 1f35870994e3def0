"""What `hft doctor` finds, and that it finds it quickly, without torch."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import constants

from hft_core.inspection import doctor
from hft_core.inspection.doctor import Finding, Verdict
from hft_core.plugins.catalogue import Catalogue

if TYPE_CHECKING:
    from tests.core.conftest import Site

EMPTY = Catalogue([])


def found(check: Callable[[Catalogue], Iterable[Finding]]) -> Finding:
    (finding,) = check(EMPTY)
    return finding


def test_broken_and_needy_plugins_are_told_with_what_mends_them_and_no_torch_is_imported(site: Site) -> None:
    site.add("hft-broken", {"hft_broken.py": "raise ValueError('boom')"}, entries="combiners = hft_broken")
    site.add_combiner("hft-good", "good")
    code = (
        "import sys; from hft_core.cli import main; code = main(['doctor', '--json']); "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules); sys.exit(code)"
    )
    done = site.python("-c", code, HF_HUB_OFFLINE="1")
    assert done.returncode == 1, done.stderr
    told = [finding for finding in json.loads(done.stdout) if finding["verdict"] == "error"]
    assert ["boom" in finding["message"] and "hft-broken" in finding["fix"] for finding in told] == [True]
    assert "1 of " in done.stderr and "make every run fail" in done.stderr
    blocked = site.hft("doctor", HF_HUB_OFFLINE="1", HFT_BLOCK="hft-broken")
    assert blocked.returncode == 0, blocked.stdout
    assert "unset HF_HUB_OFFLINE" in blocked.stdout


def test_packages_outside_their_bounds_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1000", "no-such-dist>=2", "pytest>=1; python_version < '3'", "other; extra == 'dev'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: declared)
    findings = list(doctor.packages(EMPTY))
    assert [finding.fix for finding in findings] == ["pip install 'numpy>=1000'", "pip install 'no-such-dist>=2'"]
    assert all(finding.verdict is Verdict.ERROR for finding in findings)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["numpy>=1"])
    assert found(doctor.packages).verdict is Verdict.OK


def test_a_cache_that_cannot_be_written_to_and_a_wrong_limit_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache" / "below"))
    monkeypatch.setenv("HFT_CACHE_SIZE", "1MB")
    assert found(doctor.caches).verdict is Verdict.OK
    assert not (tmp_path / "cache").exists(), "looking makes nothing"
    (tmp_path / "cache").write_text("a file in its place")
    finding = found(doctor.caches)
    assert (finding.verdict, finding.fix) == (Verdict.WARNING, "export HFT_CACHE=/a/folder")
    assert "is no folder" in finding.message
    monkeypatch.setenv("HFT_CACHE_SIZE", "much")
    assert found(doctor.caches).verdict is Verdict.ERROR


@pytest.mark.parametrize(
    ("free", "verdict"), [(10**8, Verdict.ERROR), (2 * 10**9, Verdict.WARNING), (10**10, Verdict.OK)]
)
def test_little_memory_is_told(monkeypatch: pytest.MonkeyPatch, free: int, verdict: Verdict) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: free)
    finding = found(doctor.memory)
    assert finding.verdict is verdict
    assert bool(finding.fix) is (verdict is not Verdict.OK)


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage)
    assert {finding.verdict for finding in doctor.disk(EMPTY)} == {Verdict.ERROR}


def test_the_hub_is_asked_only_where_it_may_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models--someone--small").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert found(doctor.hub).verdict is Verdict.OK
        assert "1 models are cached" in found(doctor.hub).message
    refused = found(doctor.hub)
    assert refused.verdict is Verdict.WARNING and "cannot be reached" in refused.message
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in found(doctor.hub).message


def test_more_threads_than_processors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert found(doctor.processors).fix.startswith("export OMP_NUM_THREADS=")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found(doctor.processors).verdict is Verdict.OK
