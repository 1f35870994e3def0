"""Launchers: where the runs of comparisons and searches are computed; light specs only, one module a launcher."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import LauncherSpec


@hookimpl
def hft_launchers() -> list[LauncherSpec]:
    return [
        LauncherSpec(
            name="local",
            summary="Processes of this machine, which divide its cores and GPUs",
            factory="hft_plugins.launchers.local:build",
            options="hft_plugins.launchers.local:Options",
            source="subprocess (Python)",
        ),
        LauncherSpec(
            name="slurm",
            summary="Jobs of a Slurm cluster, by sbatch",
            factory="hft_plugins.launchers.slurm:build",
            options="hft_plugins.launchers.slurm:Options",
            example={"partition": "gpu", "gpus": 1},
            source="Slurm Workload Manager (SchedMD)",
        ),
    ]
