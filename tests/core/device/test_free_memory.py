"""Free memory is the least of what the machine has and what each control group of the process leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hft_core.device import free_memory

GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with 8 GiB available, whose files are in a folder."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {8 * GIB // 1024} kB\n")
    monkeypatch.setattr(free_memory, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "GROUPS_OF_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(free_memory, "GROUPS", tmp_path / "groups")
    return tmp_path


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_of_", ".")).write_text(f"{content}\n")


def test_without_groups_it_is_what_the_machine_has(machine: Path) -> None:
    assert free_memory.available_memory() == 8 * GIB


def test_the_group_of_a_container_limits_it_and_cached_files_give_way(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/\n")
    stat = f"anon 1\ninactive_file {GIB}\n"
    group(machine / "groups", memory_of_max=3 * GIB, memory_of_current=2 * GIB, memory_of_stat=stat)
    assert free_memory.available_memory() == 2 * GIB


def test_the_narrowest_group_above_counts(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/slice/job\n")
    group(machine / "groups/slice/job", memory_of_max="max", memory_of_current=GIB, memory_of_stat="")
    group(machine / "groups/slice", memory_of_max=2 * GIB, memory_of_current=GIB, memory_of_stat="anon 5")
    assert free_memory.available_memory() == GIB


def test_a_group_over_its_limit_leaves_nothing(machine: Path) -> None:
    (machine / "cgroup").write_text("0::/\n")
    group(machine / "groups", memory_of_max=GIB, memory_of_current=2 * GIB, memory_of_stat="")
    assert free_memory.available_memory() == 0


def test_groups_of_the_first_version_count_too(machine: Path) -> None:
    (machine / "cgroup").write_text("9:cpu:/job\n4:cpuset,memory:/job\n")
    folder, stat = machine / "groups/memory/job", "total_inactive_file 0\n"
    group(folder, memory_of_limit_in_bytes=GIB, memory_of_usage_in_bytes=GIB // 4, memory_of_stat=stat)
    assert free_memory.available_memory() == 3 * GIB // 4


def test_an_unknown_system_is_not_guessed(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert free_memory.available_memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_this_machine_has_some() -> None:
    free = free_memory.available_memory()
    assert free is not None and 10**6 < free < 10**14
