"""Trackers: programs that keep and plot the numbers of runs; light specs only, one module a tracker beside this one."""

from __future__ import annotations

from hft_core.hooks import hookimpl
from hft_core.specs import TrackerSpec


@hookimpl
def hft_trackers() -> list[TrackerSpec]:
    return [
        TrackerSpec(
            name="tensorboard",
            summary="Writes event files for TensorBoard into the run's folder",
            factory="hft_plugins.trackers.tensorboard:build",
            options="hft_plugins.trackers.tensorboard:Options",
            requires=("tensorboard>=2.20",),
            source="TensorBoard (tensorflow/tensorboard)",
        ),
        TrackerSpec(
            name="trackio",
            summary="Records in Trackio's local database, or in a Space",
            factory="hft_plugins.trackers.trackio:build",
            options="hft_plugins.trackers.trackio:Options",
            requires=("trackio>=0.43",),
            source="Trackio (gradio-app/trackio)",
        ),
        TrackerSpec(
            name="wandb",
            summary="Records in Weights & Biases, online or offline",
            factory="hft_plugins.trackers.wandb:build",
            options="hft_plugins.trackers.wandb:Options",
            requires=("wandb>=0.31",),
            example={"mode": "offline"},
            source="Weights & Biases (wandb/wandb)",
        ),
        TrackerSpec(
            name="mlflow",
            summary="Records in an MLflow server, database or folder",
            factory="hft_plugins.trackers.mlflow:build",
            options="hft_plugins.trackers.mlflow:Options",
            requires=("mlflow-skinny>=3.17",),
            source="MLflow (mlflow/mlflow)",
        ),
    ]
