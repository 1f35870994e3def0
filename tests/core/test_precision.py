from __future__ import annotations

import pytest
import torch

from hft_core import machine, precision
from hft_core.precision import GAIN, Precision, choose

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("single", "half", "name"),
    [(100.0, 500.0, "bf16"), (100.0, 1.0, "fp32"), (100.0, 100.0 * GAIN, "fp32"), (100.0, 101.0 * GAIN, "bf16")],
)
def test_the_faster_format_is_chosen_and_the_measurement_told(
    single: float, half: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rates of another machine: which one this machine has is not known here.
    measured = {torch.float32: single, torch.bfloat16: half}
    monkeypatch.setattr(precision, "rates", lambda dtypes, device: [measured[dtype] for dtype in dtypes])
    chosen = choose("auto", CPU)
    assert chosen.name == name
    assert f"{half:.0f}" in chosen.reason
    assert f"{single:.0f}" in chosen.reason
    assert chosen.gflops == (half if name == "bf16" else single)


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_format_that_the_recipe_names_is_taken(wanted: str) -> None:
    chosen = choose(wanted, CPU)
    assert chosen.name == wanted
    assert chosen.gflops > 0


def test_products_run_in_the_chosen_format() -> None:
    left, right = torch.ones(2, 2), torch.ones(2, 2)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Precision(name, "", 1.0).autocast(CPU):
            assert (left @ right).dtype == dtype


def test_two_machines_of_one_process_may_have_different_formats() -> None:
    one, two = machine.find("fp32"), machine.find("bf16")
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
