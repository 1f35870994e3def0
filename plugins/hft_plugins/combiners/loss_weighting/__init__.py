"""Combiners that weight the losses of a step's tasks."""

from __future__ import annotations

from hft_core.specs import CombinerSpec

SPECS = (
    CombinerSpec(
        name="sum",
        summary="Adds the tasks' mean losses",
        factory="hft_plugins.combiners.loss_weighting.sum:build",
        options="hft_plugins.combiners.loss_weighting.sum:Options",
        source="unitary scalarization (Kurin et al. 2022, arXiv:2201.04122)",
    ),
    CombinerSpec(
        name="weighted",
        summary="Adds the losses, each times a fixed weight",
        factory="hft_plugins.combiners.loss_weighting.weighted:build",
        options="hft_plugins.combiners.loss_weighting.weighted:Options",
        source="linear scalarization",
    ),
    CombinerSpec(
        name="uncertainty",
        summary="Weights each loss by the learned uncertainty of its task",
        factory="hft_plugins.combiners.loss_weighting.uncertainty:build",
        options="hft_plugins.combiners.loss_weighting.uncertainty:Options",
        source="Kendall et al. 2018, arXiv:1705.07115; torchjd UW",
    ),
    CombinerSpec(
        name="dwa",
        summary="Higher weights for losses that decreased less from one epoch to the next",
        factory="hft_plugins.combiners.loss_weighting.dwa:build",
        options="hft_plugins.combiners.loss_weighting.dwa:Options",
        source="Liu et al. 2019, arXiv:1803.10704",
    ),
    CombinerSpec(
        name="rlw",
        summary="Random weights, drawn at each step",
        factory="hft_plugins.combiners.loss_weighting.rlw:build",
        options="hft_plugins.combiners.loss_weighting.rlw:Options",
        source="Lin et al. 2022, arXiv:2111.10603; torchjd Random",
    ),
    CombinerSpec(
        name="geometric-mean",
        summary="The geometric mean of the losses",
        factory="hft_plugins.combiners.loss_weighting.geometric_mean:build",
        options="hft_plugins.combiners.loss_weighting.geometric_mean:Options",
        source="Chennupati et al. 2019, arXiv:1904.08492; torchjd GeometricMean",
    ),
    CombinerSpec(
        name="imtl-l",
        summary="Learned scales that make all losses equally large",
        factory="hft_plugins.combiners.loss_weighting.imtl_l:build",
        options="hft_plugins.combiners.loss_weighting.imtl_l:Options",
        source="Liu et al. 2021 (impartial multi-task learning), ICLR; torchjd IMTLL",
    ),
    CombinerSpec(
        name="famo",
        summary="Weights that let all losses decrease at the same relative rate",
        factory="hft_plugins.combiners.loss_weighting.famo:build",
        options="hft_plugins.combiners.loss_weighting.famo:Options",
        source="Liu et al. 2023, arXiv:2306.03792",
    ),
    CombinerSpec(
        name="stch",
        summary="A smooth maximum of the weighted losses",
        factory="hft_plugins.combiners.loss_weighting.stch:build",
        options="hft_plugins.combiners.loss_weighting.stch:Options",
        source="Lin et al. 2024, arXiv:2402.19078; torchjd STCH",
    ),
    CombinerSpec(
        name="coba",
        summary="Weights that let the dev losses of all tasks converge at the same time",
        factory="hft_plugins.combiners.loss_weighting.coba:build",
        options="hft_plugins.combiners.loss_weighting.coba:Options",
        source="Gong et al. 2024, arXiv:2410.06741",
    ),
    CombinerSpec(
        name="gradnorm",
        summary="Weights that balance gradient norms by how fast each task learns",
        factory="hft_plugins.combiners.loss_weighting.gradnorm:build",
        options="hft_plugins.combiners.loss_weighting.gradnorm:Options",
        source="Chen et al. 2018, arXiv:1711.02257",
        per_task_gradients=True,
    ),
)
