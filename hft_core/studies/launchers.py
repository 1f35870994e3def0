"""Build the launcher that a study's runs are started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hft_core.launcher import Launcher

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue

DEFAULT = "local"


def launcher_of(text: str | None, catalogue: Catalogue) -> Launcher:
    """Build the launcher `NAME[,OPTION=VALUE…]`, by default `DEFAULT`.

    Raises `UsageError` for another form, and `PluginError` for one that is unknown or refuses its options.
    """
    from hft_core.recipe.fields import PluginChoice
    from hft_core.recipe.flags import plugin_from_flag
    from hft_core.recipe.resolve import choose

    flag = "--launcher"
    choice = PluginChoice(**plugin_from_flag(text or DEFAULT, flag))
    chosen = choose(catalogue, "launcher", choice, f"{flag} {text}" if text else flag)
    return chosen.build_a(Launcher)  # type: ignore[type-abstract]
