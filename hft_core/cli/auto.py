"""`hft run auto`: choose the stages for tasks that are given by flags."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hft_core.cli import launch
from hft_core.cli.terminal import say_error
from hft_core.errors import UsageError

if TYPE_CHECKING:
    from hft_core.plugins.catalogue import Catalogue
    from hft_core.recipe.yaml_source import Source


def source_of(
    catalogue: Catalogue,
    backbone: str | None,
    tasks: list[str] | None,
    plugins: list[str | None],
    assignments: list[str],
) -> Source:
    """Choose the stages for tasks given by flags, and print why. Raises `UsageError` where one is missing."""
    if backbone is None or not tasks:
        raise UsageError("auto needs --backbone PATH and at least one --task NAME=HEAD:FILES")
    if any(plugins):
        raise UsageError("auto chooses strategy and combiner; change them with --set stages.finetune.strategy=…")
    from hft_core.inspection.situation import auto_source
    from hft_core.recipe.flags import recipe_from_flags
    from hft_core.recipe.recipe_file import override
    from hft_core.recipe.yaml_source import Source

    of_stages = [assignment for assignment in assignments if assignment.strip().startswith("stages.")]
    others = [assignment for assignment in assignments if assignment not in of_stages]
    given = override(Source.of(recipe_from_flags(backbone, tasks), "command line", Path.cwd()), others)
    source, reasons = auto_source(given, catalogue)
    if launch.is_main():
        for reason in reasons:
            say_error(f"auto: {reason}")
    return override(source, of_stages)
