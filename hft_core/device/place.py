"""Describe where this process computes: device, instruction set and threads."""

from __future__ import annotations

import os
import platform

import torch

from hft_core.device.machine import Machine
from hft_core.pins import Place
from hft_core.runtime.processor import processor

LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment variables that limit the instructions of torch's libraries, which do not tell what they chose."""


def find_place(machine: Machine) -> Place:
    """Describe where `machine` computes."""
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    on_gpu = machine.device.type == "cuda"
    return Place(
        processes=machine.name,
        device=torch.cuda.get_device_name(machine.device) if on_gpu else processor()[0] or platform.machine(),
        instructions=" ".join([torch.backends.cpu.get_cpu_capability(), *limits]),
        threads=torch.get_num_threads(),
        products=torch.get_float32_matmul_precision(),
    )
