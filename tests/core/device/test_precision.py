from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from hft_core.device import gemm_speed
from hft_core.device.gemm_speed import DAYS, DTYPES, MEASUREMENTS, Throughput, throughput
from hft_core.device.machine import find_machine
from hft_core.device.precision import GAIN, Precision, choose

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a machine on which nothing ran so far."""
    monkeypatch.setenv("HFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / gemm_speed.FILE


def measuring(single: float, half: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates of another machine: which ones this machine has is not known here."""
    monkeypatch.setattr(gemm_speed, "measure", lambda dtypes, device: [single, half])


# --- the choice


@pytest.mark.parametrize(
    ("single", "half", "name"),
    [(100.0, 500.0, "bf16"), (100.0, 1.0, "fp32"), (100.0, 100.0 * GAIN, "fp32"), (100.0, 101.0 * GAIN, "bf16")],
)
def test_the_faster_format_is_chosen_and_the_measurement_told(
    single: float, half: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(single, half, monkeypatch)
    chosen = choose("auto", CPU)
    assert chosen.name == name
    assert f"{half:.0f}" in chosen.reason
    assert f"{single:.0f}" in chosen.reason
    assert "measured now" in chosen.reason
    assert chosen.gflops == (half if name == "bf16" else single)


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_format_that_the_recipe_names_is_taken(wanted: str) -> None:
    chosen = choose(wanted, CPU)
    assert chosen.name == wanted
    assert chosen.gflops > 0


def test_no_format_is_chosen_whose_gradients_would_vanish() -> None:
    # Of a format with fewer bits of exponent than float32, small gradients become 0 unless losses are scaled.
    smallest = torch.finfo(torch.float32).smallest_normal
    assert [name for name, dtype in DTYPES.items() if torch.finfo(dtype).smallest_normal > smallest] == []


def test_products_run_in_the_chosen_format() -> None:
    left, right = torch.ones(2, 2), torch.ones(2, 2)
    for name, dtype in DTYPES.items():
        with Precision(name, "", 1.0).autocast(CPU):
            assert (left @ right).dtype == dtype


def test_two_machines_of_one_process_may_have_different_formats() -> None:
    one, two = find_machine("fp32"), find_machine("bf16")
    with one.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with two.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_a_measurement_is_of_this_machine_and_leaves_the_random_numbers_of_the_run_alone() -> None:
    torch.manual_seed(0)
    chosen = choose("fp32", CPU)
    after = torch.rand(1)
    assert 0.001 < chosen.gflops < 1e6
    torch.manual_seed(0)
    choose("auto", CPU)
    assert torch.equal(torch.rand(1), after)  # fresh heads are drawn next


# --- what is remembered


def test_the_best_of_a_few_runs_is_kept_and_then_nothing_is_measured_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for single, half in [(7.0, 20.0), (100.0, 300.0), (90.0, 400.0), (1e6, 1.0)]:  # the first one on a busy machine
        measuring(single, half, monkeypatch)
        seen.append(throughput(CPU))
    assert [dict(found.gflops) for found in seen] == [
        {"fp32": 7.0, "bf16": 20.0},
        {"fp32": 100.0, "bf16": 300.0},
        {"fp32": 100.0, "bf16": 400.0},
        {"fp32": 100.0, "bf16": 400.0},
    ]
    assert [found.measured_now for found in seen] == [True] * MEASUREMENTS + [False]
    assert "remembered from 3 runs" in choose("auto", CPU).reason


def test_what_is_old_is_forgotten(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(1000.0, 2000.0, monkeypatch)
    for _ in range(MEASUREMENTS):
        throughput(CPU)
    held = json.loads(place.read_text())
    ((key, value),) = held.items()
    place.write_text(json.dumps({key: {**value, "since": time.time() - DAYS * 86_400 - 1}}))
    measuring(100.0, 50.0, monkeypatch)
    assert throughput(CPU).gflops == {"fp32": 100.0, "bf16": 50.0}


@pytest.mark.usefixtures("one_thread")
def test_another_number_of_threads_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(100.0, 200.0, monkeypatch)
    throughput(CPU)
    torch.set_num_threads(2)
    measuring(200.0, 400.0, monkeypatch)
    assert throughput(CPU).measurements == 1
    torch.set_num_threads(1)
    assert throughput(CPU).gflops["fp32"] == 200.0


@pytest.mark.parametrize(
    "damage", ["", "[1", "[]", '{"KEY": 3}', '{"KEY": {"gflops": {"fp32": 0}}}', "\udcff", "[" * 9999]
)
def test_a_damaged_file_is_measured_over(damage: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(100.0, 200.0, monkeypatch)
    throughput(CPU)
    (key,) = json.loads(place.read_text())
    place.write_bytes(damage.replace('"KEY"', json.dumps(key)).encode(errors="surrogateescape"))
    found = throughput(CPU)
    assert (dict(found.gflops), found.measurements) == ({"fp32": 100.0, "bf16": 200.0}, 1)
    assert throughput(CPU).measurements == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("100.0", "1.0"),  # a hundredth: bfloat16 would be taken from then on
        ("100.0", "Infinity"),
        ("100.0", "NaN"),
        ("100.0", "1" + "0" * 400),
        ('"measurements": 1', '"measurements": Infinity'),
        ('"measurements": 1', '"measurements": 9'),
        ('"since": 1', '"since": 2'),
        ('"bf16": 200.0', '"bf16": 200.0, "fp16": 900.0'),
    ],
)
def test_a_changed_digit_is_measured_over(old: str, new: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(100.0, 200.0, monkeypatch)
    throughput(CPU)
    text = place.read_text()
    assert text.count(old) == 1
    place.write_text(text.replace(old, new))
    found = throughput(CPU)
    assert (dict(found.gflops), found.measurements) == ({"fp32": 100.0, "bf16": 200.0}, 1)


def test_the_measurement_of_another_machine_is_not_taken_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(100.0, 200.0, monkeypatch)
    throughput(CPU)
    ((key, value),) = json.loads(place.read_text()).items()
    monkeypatch.setattr(gemm_speed, "_key", lambda device: "another")
    place.write_text(json.dumps({"another": value}))
    assert throughput(CPU).measurements == 1
    assert key != "another"


def test_a_pipe_in_the_place_of_the_file_makes_nobody_wait(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    measuring(100.0, 200.0, monkeypatch)
    assert throughput(CPU).measurements == 1
    assert throughput(CPU).measurements == 2


def test_a_folder_that_cannot_be_written_to_is_no_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.parent.parent.mkdir(exist_ok=True)
    place.parent.write_text("a file where the folder should be")
    measuring(100.0, 200.0, monkeypatch)
    assert throughput(CPU) == Throughput({"fp32": 100.0, "bf16": 200.0}, 1, pytest.approx(time.time(), abs=60), True)


def test_other_machines_that_share_the_folder_keep_theirs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.parent.mkdir(parents=True)
    place.write_text('{"another": {"kept": true}}')
    measuring(100.0, 200.0, monkeypatch)
    throughput(CPU)
    held = json.loads(place.read_text())
    assert held["another"] == {"kept": True}
    assert len(held) == 2
    assert [path.name for path in place.parent.iterdir()] == [place.name]
