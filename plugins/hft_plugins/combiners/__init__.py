"""Loss combiners: light specs only; each plugin's implementation is a module of its own beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import CombinerSpec


@hookimpl
def hft_combiners() -> list[CombinerSpec]:
    return [
        CombinerSpec(
            name="sum",
            summary="Adds the tasks' mean losses up",
            factory="hft_plugins.combiners.sum:build",
            options="hft_plugins.combiners.sum:Options",
            source="unitary scalarization (Kurin et al. 2022, arXiv:2201.04122)",
        ),
        CombinerSpec(
            name="weighted",
            summary="Adds the losses up, each times a fixed weight",
            factory="hft_plugins.combiners.weighted:build",
            options="hft_plugins.combiners.weighted:Options",
            source="linear scalarization",
        ),
        CombinerSpec(
            name="uncertainty",
            summary="Weighs each loss by a learned uncertainty of its task",
            factory="hft_plugins.combiners.uncertainty:build",
            options="hft_plugins.combiners.uncertainty:Options",
            source="Kendall et al. 2018, arXiv:1705.07115; torchjd UW",
        ),
        CombinerSpec(
            name="pcgrad",
            summary="Projects each task's gradient away from those it conflicts with",
            factory="hft_plugins.combiners.pcgrad:build",
            options="hft_plugins.combiners.pcgrad:Options",
            source="Yu et al. 2020, arXiv:2001.06782; torchjd PCGrad",
            per_task_gradients=True,
        ),
    ]
