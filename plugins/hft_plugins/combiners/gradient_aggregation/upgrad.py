"""`upgrad`: project each gradient onto the directions that conflict with no task, and average."""

from __future__ import annotations

from collections.abc import Sequence

from torchjd.aggregation import UPGradWeighting

from hft_plugins.combiners.gradient_aggregation.gradients import Options as Options
from hft_plugins.combiners.gradient_aggregation.gramian_combiner import TorchJD


def build(options: Options, *, tasks: Sequence[str]) -> TorchJD:
    """Combine by (1/T) Σ_t π(G_t), where π projects onto the cone {d : ⟨G_s, d⟩ ≥ 0 for all s}.

    Source: Quinton and Rey 2024, arXiv:2406.16232.
    """
    return TorchJD(tuple(tasks), at=options.at, weighting=UPGradWeighting())
