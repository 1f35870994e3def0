"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import TrackerSpec, hookimpl


@hookimpl
def hft_trackers() -> list[TrackerSpec]:
    """The trackers of this package."""
    return [
        TrackerSpec(
            name="my-plugin",
            summary="Writes the numbers of a run into a table in its folder",
            factory="hft_my_plugin.tracker:build",
            options="hft_my_plugin.tracker:Options",
            source="the program that keeps the numbers",
        )
    ]
