"""Models whose classes are code in their own folder or repository, named in `auto_map` of their configuration."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files


def opens(auto: Any, config: PretrainedConfig, *, trust_remote_code: bool) -> bool:
    """Tell whether an auto class of transformers opens a model: it knows the type, or the model brings a class."""
    return type(config) in auto._model_mapping or (trust_remote_code and auto.__name__ in auto_map(config))


def auto_map(config: PretrainedConfig) -> dict[str, str]:
    """Return the classes that a model brings, by the auto classes they are for."""
    return getattr(config, "auto_map", None) or {}


def save(config: PretrainedConfig, folder: Path) -> None:
    """Copy the code of the classes in `auto_map` into `folder`, and name it there: what was trained with this code is
    opened with it, whatever becomes of where it came from."""
    names = {}
    for auto, reference in auto_map(config).items():
        if isinstance(reference, str):
            found = get_class_from_dynamic_module(reference, config._name_or_path)
            source = inspect.getfile(found)
            for file in (source, *get_relative_import_files(source)):
                shutil.copyfile(file, folder / Path(file).name)
            names[auto] = f"{Path(source).stem}.{found.__name__}"
        else:
            names[auto] = reference  # a tokenizer's, which saves its own code
    if names:
        config.auto_map = names
