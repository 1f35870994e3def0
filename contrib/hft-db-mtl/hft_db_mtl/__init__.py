"""List the combiner `db-mtl`; light: the combiner is imported when it is first used."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import CombinerSpec


@hookimpl
def hft_combiners() -> list[CombinerSpec]:
    return [
        CombinerSpec(
            name="db-mtl",
            summary="Takes the losses' logarithms, and brings their averaged gradients to the length of the longest",
            factory="hft_db_mtl.combiner:build",
            options="hft_db_mtl.combiner:Options",
            source="Lin et al. 2023, arXiv:2308.12029",
            per_task_gradients=True,
        )
    ]
