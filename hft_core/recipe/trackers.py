"""Look up the trackers of a recipe: where a run is started or validated, and not where a finished one is opened."""

from __future__ import annotations

from hft_core.errors import RecipeError
from hft_core.recipe.resolve import Chosen, Resolved, choose


def trackers_of(resolved: Resolved) -> tuple[Chosen, ...]:
    """Return the trackers that the recipe names in `output.track`.

    Raises `PluginError` for one that is unknown, lacks its package or refuses its options, and `RecipeError` for one
    that is named twice.
    """
    chosen: list[Chosen] = []
    for index, choice in enumerate(resolved.recipe.output.track):
        place = resolved.where(("output", "track", index))
        tracker = choose(resolved.backbone.catalogue, "tracker", choice, place)
        if tracker.entry.name in (other.entry.name for other in chosen):
            raise RecipeError(f"{place}: the tracker '{tracker.entry.name}' is named twice")
        chosen.append(tracker)
    return tuple(chosen)
