from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from hft_core import Catalogue
from hft_core.recipe import recipe_file
from hft_core.recipe.resolve import resolve
from hft_core.runs import assembly


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_searches_all_rows(
    rank: int, models: Any, toys: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"backbone": str(models["bert"]), "tasks": {"t": {"head": "classification"}}, "stages": [{"max_steps": 1}]}
    rows = toys.rows(24)
    dev = [{**row, "label": rows[0]["label"]} for row in rows[:8]]
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    resolved = resolve(recipe_file.from_dict(recipe), Catalogue.discover())
    built = assembly.assemble(resolved, host_data={"t": {"train": rows, "dev": dev}}, trust_remote_code=False)
    said = [warning for warning in built.warnings if "of train rows" in warning or "all 8 dev rows" in warning]
    assert len(said) == (2 if rank == 0 else 0)
