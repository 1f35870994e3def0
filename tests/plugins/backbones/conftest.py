from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

FAMILIES = Path(__file__).parents[2] / "families.py"


@pytest.fixture(scope="session")
def families() -> ModuleType:
    """`tests/families.py`."""
    spec = importlib.util.spec_from_file_location("hft_tests_families", FAMILIES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def family(families: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny model of a family, of another class than that with its LM head, or with other settings."""

    def write(name: str, kind: type[PreTrainedModel] | None = None, **settings: Any) -> Path:
        folder = tmp_path / name
        if kind is None and not settings:
            assert not families.save(name, folder)
            return folder
        words = families.tokenizer(families.kinds()[name])
        config = families.configuration(name, words)
        config.update(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            model = (kind or families.AUTO_CLASSES[families.kinds()[name]]._model_mapping[type(config)])(config)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def changed() -> Callable[..., None]:
    """Changes fields of a JSON file; None removes one."""

    def change(path: Path, **fields: Any) -> None:
        old = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({key: v for key, v in {**old, **fields}.items() if v is not None}))

    return change
