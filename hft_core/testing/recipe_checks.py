"""Check ready-made recipes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.testing.check import Check, Failed, Subject, check, expect

CHECKS: list[Check] = []


@check("recipe", CHECKS)
def the_recipe_validates(subject: Subject) -> None:
    """The recipe can be written as YAML, its plugins are installed and accept their options."""
    with tempfile.TemporaryDirectory() as place:
        recipe = subject.build(folder=Path(place))
        try:
            written = json.loads(json.dumps(recipe))
        except TypeError as error:
            raise Failed(f"expected a recipe that YAML can hold; found {error}") from error
        resolved = resolve(recipe_file.from_dict(written), subject.catalogue)
        expect(bool(resolved.stages), "stages", "none")


@check("recipe", CHECKS)
def its_data_files_are_there(subject: Subject) -> None:
    """Every data file that the recipe names exists when it was built."""
    with tempfile.TemporaryDirectory() as place:
        recipe = recipe_file.from_dict(subject.build(folder=Path(place)))
        for name, task in recipe.tasks.items():
            if task.data is None:
                raise Failed(f"expected task '{name}': data; found none")
            lost = [path for path in _paths(task.data.model_dump(mode="json")) if not Path(path).exists()]
            expect(not lost, f"task '{name}': data files that exist", ", ".join(lost[:3]))


def _paths(value: object) -> list[str]:
    """Find the strings in a data section that are absolute paths."""
    if isinstance(value, dict):
        return [path for item in value.values() for path in _paths(item)]
    if isinstance(value, list | tuple):
        return [path for item in value for path in _paths(item)]
    return [value] if isinstance(value, str) and Path(value).is_absolute() else []
