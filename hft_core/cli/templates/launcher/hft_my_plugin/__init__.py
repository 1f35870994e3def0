"""What hft is told of this package when plugins are listed: light, so that listing them stays fast."""

from __future__ import annotations

from hft_core import LauncherSpec, hookimpl


@hookimpl
def hft_launchers() -> list[LauncherSpec]:
    """The launchers of this package."""
    return [
        LauncherSpec(
            name="my-plugin",
            summary="Processes of this machine with a lower priority",
            factory="hft_my_plugin.launcher:build",
            options="hft_my_plugin.launcher:Options",
            source="nice (POSIX)",
        )
    ]
